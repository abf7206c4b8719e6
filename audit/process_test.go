package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/keys"
)

// process starts this test binary in one of its roles.
func process(t *testing.T, role, dir string) (cmd *exec.Cmd, in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "AUDIT_TEST_ROLE="+role, "AUDIT_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	if in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewReader(pipe)
}

// holdRole holds the log until its standard input ends.
func holdRole(dir string) error {
	l, err := audit.Open(config(dir))
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return l.Close()
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, in, out := process(t, "hold", dir)
	if line, err := out.ReadString('\n'); line != "open\n" {
		t.Fatal(line, err)
	}
	_, err := audit.Open(config(dir))
	if !errors.Is(err, audit.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("the second one: %v, want ErrInUse and the other's process id", err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	l := open(t, config(dir))
	if _, err := audit.Open(config(dir)); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("twice in one process: %v", err)
	}
	closeLog(t, l)
	closeLog(t, open(t, config(dir)))
}

// crashRole writes records as fast as it can and names those that were
// acknowledged, until it is killed.
func crashRole(dir string) error {
	l, err := audit.Open(config(dir))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	failed := make(chan error, 8)
	for g := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				recs := make([]audit.Record, 1+i%4)
				ids := ""
				for k := range recs {
					recs[k] = rec(fmt.Sprintf("%d-%d-%d-%d", os.Getpid(), g, i, k))
					recs[k].Details = map[string]string{"note": strings.Repeat("x", rand.IntN(1000))}
					ids += recs[k].RequestID + "\n"
				}
				if _, err := l.Append(context.Background(), recs...); err != nil {
					failed <- err
					return
				}
				if _, err := os.Stdout.WriteString(ids); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	return <-failed
}

func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acked := map[string]int{}
	rounds := 0
	for began := time.Now(); rounds < 40 && time.Since(began) < 5*time.Second; rounds++ {
		cmd, _, out := process(t, "crash", dir)
		for n := rand.IntN(200); ; n-- {
			if n == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := out.ReadString('\n')
			if err != nil { // a part of a line was not said
				break
			}
			acked[strings.TrimSpace(line)] = 0
		}
		if cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d ended with %v", rounds, cmd.ProcessState)
		}
		closeLog(t, open(t, config(dir)))
	}
	recovered := 0
	for _, r := range readAll(t, dir) {
		if r.Action == audit.ActionRecover {
			recovered++
		} else if _, ok := acked[r.RequestID]; ok {
			acked[r.RequestID]++
		}
	}
	for id, n := range acked {
		if n != 1 {
			t.Errorf("%s was acknowledged and is there %d times", id, n)
		}
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d kills, %d acknowledged records, %d torn lines", rounds, len(acked), recovered)
}

// fullRole meets a full disk: the kernel refuses to let files grow. It then
// gets room again, twice: once Append finds out, once Health does.
func fullRole(dir string) error {
	signal.Ignore(syscall.SIGXFSZ) // writes fail with EFBIG instead
	room := func(bytes uint64) error {
		var lim syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
			return err
		}
		lim.Cur = min(bytes, lim.Max)
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim)
	}
	l, err := audit.Open(config(dir))
	if err != nil {
		return err
	}
	ctx := context.Background()
	// The limit is on every file, and the journal has its size from the start.
	for range 80 {
		r := rec("")
		r.Details = map[string]string{}
		for i := range 60 {
			r.Details[fmt.Sprint("note_", i)] = strings.Repeat("x", 1000)
		}
		if _, err := l.Append(ctx, r); err != nil {
			return err
		}
	}
	info, err := os.Stat(segment(dir))
	if err != nil {
		return err
	}
	begun := uint64(info.Size())
	if err := room(begun + 10_000); err != nil {
		return err
	}
	acked := map[uint64]string{}
	write := func(id string) error {
		r := rec(id)
		r.Details = map[string]string{"note": strings.Repeat("x", 333)}
		seq, err := l.Append(ctx, r, rec(id+"b"))
		if err == nil {
			acked[seq], acked[seq+1] = id, id+"b"
		}
		return err
	}
	fill := func(id string) error {
		for i := range 1000 {
			err := write(fmt.Sprint(id, i))
			if err == nil {
				continue
			}
			if !errors.Is(err, keys.ErrAudit) {
				return fmt.Errorf("a full disk gave %w", err)
			}
			for range 10 { // small ones, too, that would still have fitted in
				if _, err := l.Append(ctx, rec("small")); !errors.Is(err, keys.ErrAudit) {
					return fmt.Errorf("a full disk then gave %v", err)
				}
			}
			if err := l.Health(); !errors.Is(err, syscall.EFBIG) || !errors.Is(err, keys.ErrAudit) {
				return fmt.Errorf("healthy on a full disk: %v", err)
			}
			return nil
		}
		return errors.New("the disk never filled")
	}
	if err := fill("a"); err != nil {
		return err
	}
	if err := room(begun + 20_000); err != nil {
		return err
	}
	if err := eventually(func() error { return write("room") }); err != nil {
		return err
	}
	if err := fill("b"); err != nil {
		return err
	}
	if err := room(math.MaxInt64); err != nil {
		return err
	}
	if err := eventually(l.Health); err != nil {
		return err
	}
	if err := write("last"); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	recs, err := collect(dir)
	if err != nil {
		return err
	}
	recovered := 0
	for _, r := range recs {
		switch {
		case r.Action == audit.ActionRecover:
			if recovered++; r.Details["error"] == "" || r.Details["since"] == "" || r.Details["refused"] == "0" || r.Details["refused"] == "" {
				return fmt.Errorf("the outage is recorded as %+v", r)
			}
		case r.RequestID == "":
		case acked[r.Seq] != r.RequestID:
			return fmt.Errorf("seq %d is %q, was acknowledged as %q", r.Seq, r.RequestID, acked[r.Seq])
		default:
			delete(acked, r.Seq)
		}
	}
	if len(acked) != 0 || recovered < 2 {
		return fmt.Errorf("%d acknowledged records are missing; %d recoveries", len(acked), recovered)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	cmd, _, _ := process(t, "full", t.TempDir())
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
