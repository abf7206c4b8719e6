package store_test

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"keyhole/store"
	"keyhole/store/storetest"
)

// TestKill9 kills a process that commits in a loop: whatever it acknowledged
// is there afterwards, sealed, and no commit is there by half: key, versions,
// rotation and events belong together.
func TestKill9(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	s := sqliteAt(t, path)
	first := storetest.NewKey("payments", 1)
	rotation := storetest.NewRotation("rotation", "payments", 2)
	rotation.Error = "1"
	if err := s.Commit(ctx, store.Change{Key: first, Rotation: rotation}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := uint64(1)
	for round, acks := range []int{1, 2, 7, 19, 40} {
		cmd := child(t, "commit", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := before
		killed := false
		lines := bufio.NewScanner(out)
		for n := 1; lines.Scan(); n++ {
			if acknowledged, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
			if n == acks { // in the middle of the next commit, most likely
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("round %d: the process ended by itself: %v", round, err)
		}
		s := sqliteAt(t, path)
		k, err := s.Key(ctx, "payments")
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Rotation(ctx, "rotation")
		if err != nil {
			t.Fatal(err)
		}
		_, revision, err := s.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		oldest, newest, err := s.EventRange(ctx)
		if err != nil {
			t.Fatal(err)
		}
		events, err := s.Events(ctx, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if k.Epoch < acknowledged || k.Epoch > acknowledged+1 {
			t.Errorf("round %d: epoch %d was acknowledged, the store has %d", round, acknowledged, k.Epoch)
		}
		if uint64(len(k.Versions)) != k.Epoch || r.Error != fmt.Sprint(k.Epoch) || revision != k.Epoch {
			t.Errorf("round %d: epoch %d came with %d versions, revision %d and the rotation at %s", round, k.Epoch, len(k.Versions), revision, r.Error)
		}
		if oldest != 1 || newest != 2*(k.Epoch-1) || uint64(len(events)) != newest || uint64(events[newest-1].Version) != k.Epoch {
			t.Errorf("round %d: epoch %d came with the events %d to %d, of which %d are there", round, k.Epoch, oldest, newest, len(events))
		}
		before = k.Epoch
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenAtOnce lets several processes make and open one store at the same
// moment.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	const processes, rounds = 8, 5
	for range rounds {
		path := filepath.Join(t.TempDir(), "keyhole.db")
		var all []*exec.Cmd
		var start []io.WriteCloser
		for range processes {
			cmd := child(t, "open", path)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			all, start = append(all, cmd), append(start, in)
		}
		for _, in := range start {
			if _, err := io.WriteString(in, "go\n"); err != nil {
				t.Fatal(err)
			}
		}
		for _, cmd := range all {
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
		s := sqliteAt(t, path)
		keys, revision, err := s.Load(t.Context())
		if err != nil || len(keys) != processes || revision != processes {
			t.Errorf("%d processes left %d keys at revision %d, %v", processes, len(keys), revision, err)
		}
		if n := s.Ask(t, true, "SELECT count(*) FROM schema_version"); n != fmt.Sprint(schema) {
			t.Errorf("%s migrations were run", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
