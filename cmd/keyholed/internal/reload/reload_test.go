package reload

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/audit"
)

// kit is one watched file that holds "good ..." or something else.
type kit struct {
	t      *testing.T
	file   string
	dir    string
	order  chan os.Signal
	output bytes.Buffer

	mu    sync.Mutex
	inUse string
	loads int
	seen  []bool // what Observe was told: whether the load was good
}

var errBad = errors.New("the file is not good")

func newKit(t *testing.T) *kit {
	t.Helper()
	dir := t.TempDir()
	k := &kit{t: t, file: filepath.Join(dir, "file"), dir: filepath.Join(dir, "audit"), order: make(chan os.Signal)}
	k.put("good 1")
	k.inUse = "good 1"
	return k
}

func (k *kit) put(text string) {
	k.t.Helper()
	if err := errors.Join(os.WriteFile(k.file+".new", []byte(text), 0o600), os.Rename(k.file+".new", k.file)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) load(context.Context) (bool, string, error) {
	text, err := os.ReadFile(k.file)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loads++
	if err != nil || !strings.HasPrefix(string(text), "good") {
		return false, "", errors.Join(errBad, err)
	}
	changed := k.inUse != string(text)
	k.inUse = string(text)
	return changed, k.inUse, nil
}

func (k *kit) told() []bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := k.seen
	k.seen = nil
	return seen
}

func (k *kit) using() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.inUse
}

// run watches in a bubble of synctest, calls f, and returns the audit log's
// lines about reloads.
func (k *kit) run(interval time.Duration, f func()) []string {
	k.t.Helper()
	synctest.Test(k.t, func(t *testing.T) {
		log, err := audit.Open(audit.Config{Dir: k.dir, Node: "test"})
		if err != nil {
			t.Fatal(err)
		}
		k.order = make(chan os.Signal)
		r := New(Config{
			Parts:    []Part{{Name: "part", Paths: func() []string { return []string{k.file} }, Load: k.load}},
			Interval: interval, Now: k.order, Audit: log, Log: slog.New(slog.NewTextHandler(&k.output, nil)),
			Observe: func(part string, err error) {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.seen = append(k.seen, err == nil)
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		f()
		synctest.Wait()
		cancel()
		wg.Wait()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(filepath.Join(k.dir, "00000001.jsonl"))
	if err != nil {
		k.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"action":"reload"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (k *kit) expect(when, inUse string, told ...bool) {
	k.t.Helper()
	synctest.Wait()
	if got := k.using(); got != inUse {
		k.t.Errorf("%s: %q is in use, want %q", when, got, inUse)
	}
	got := k.told()
	if len(got) != len(told) {
		k.t.Errorf("%s: told of %v, want %v", when, got, told)
		return
	}
	for i := range got {
		if got[i] != told[i] {
			k.t.Errorf("%s: told of %v, want %v", when, got, told)
		}
	}
}

func TestWatching(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	lines := k.run(time.Second, func() {
		wait := func(d time.Duration) { time.Sleep(d) } // of the bubble: no real time passes
		wait(3 * time.Second)
		k.expect("nothing changes", "good 1")
		k.put("good 2")
		wait(time.Second)
		k.expect("a change", "good 2", true)
		k.put("bad")
		wait(5 * time.Second)
		k.expect("a bad file, told of once", "good 2", false)
		k.put("worse")
		wait(5 * time.Second)
		k.expect("another bad file", "good 2", false)
		k.put("good 2")
		wait(time.Second)
		k.expect("mended to what is in use", "good 2", true)
		k.put("good 3")
		wait(time.Second)
		k.expect("a change after that", "good 3", true)
		if err := os.Remove(k.file); err != nil {
			t.Error(err)
		}
		wait(3 * time.Second)
		k.expect("the file is gone", "good 3", false)
		k.put("good 4")
		wait(time.Second)
		k.expect("the file is back", "good 4", true)
	})
	var outcomes []string
	for _, l := range lines {
		if strings.Contains(l, `"outcome":"ok"`) && strings.Contains(l, `"hash":"good `) && strings.Contains(l, `"what":"part"`) {
			outcomes = append(outcomes, "ok")
		} else if strings.Contains(l, `"outcome":"error"`) {
			outcomes = append(outcomes, "error")
		}
	}
	if got := strings.Join(outcomes, " "); got != "ok error error ok ok error ok" {
		t.Errorf("recorded: %s\n%s", got, strings.Join(lines, ""))
	}
	if !strings.Contains(k.output.String(), "RELOAD FAILED") {
		t.Error("the log does not tell of failures")
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	lines := k.run(0, func() {
		k.put("good 2")
		time.Sleep(time.Hour) // of the bubble
		k.expect("nobody looks", "good 1")
		k.order <- syscall.SIGHUP
		k.expect("ordered", "good 2", true)
		k.order <- syscall.SIGHUP
		k.expect("ordered, nothing changed", "good 2", true)
		k.put("bad")
		k.order <- syscall.SIGHUP
		k.expect("a bad file", "good 2", false)
		k.order <- syscall.SIGHUP
		k.expect("the same bad file", "good 2", false)
	})
	if len(lines) != 4 {
		t.Errorf("%d reloads recorded, want each of 4 orders\n%s", len(lines), strings.Join(lines, ""))
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, sub := filepath.Join(dir, "a"), filepath.Join(dir, "sub")
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	put(a, "x")
	last := fingerprint([]string{a, sub})
	differs := func(after string) {
		t.Helper()
		now := fingerprint([]string{a, sub})
		if now == last {
			t.Errorf("after %s the fingerprint is the same", after)
		}
		if again := fingerprint([]string{a, sub}); again != now {
			t.Errorf("after %s the fingerprint does not stand still", after)
		}
		last = now
	}
	put(a, "xy")
	differs("a longer file")
	if err := os.Chtimes(a, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	differs("another time")
	put(filepath.Join(sub, "b"), "x")
	differs("a new file in the directory")
	if err := os.Rename(filepath.Join(sub, "b"), filepath.Join(sub, "c")); err != nil {
		t.Fatal(err)
	}
	differs("another name in the directory")
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	differs("a file less")
	if err := os.Symlink(filepath.Join(sub, "c"), a); err != nil {
		t.Fatal(err)
	}
	differs("a link in its place")
}

func TestHash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	hash := func(texts ...string) string {
		t.Helper()
		for i, name := range []string{a, b} {
			if err := os.WriteFile(name, []byte(texts[i]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h, err := Hash(a, b)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if first := hash("x", "y"); first != hash("x", "y") {
		t.Error("the same contents differ")
	}
	seen := map[string][2]string{}
	for _, c := range [][2]string{{"x", "y"}, {"xy", ""}, {"", "xy"}, {"y", "x"}} {
		h := hash(c[0], c[1])
		if other, twice := seen[h]; twice {
			t.Errorf("%q and %q have one hash", c, other)
		}
		seen[h] = c
	}
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	h, err := Hash(a, b)
	if _, twice := seen[h]; err != nil || twice {
		t.Errorf("a missing file: %s, %v", h, err)
	}
	if _, err := Hash(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory: %v", err)
	}
}
