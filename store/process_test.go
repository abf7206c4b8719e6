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
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// TestKill9 kills a process that commits in a loop: whatever it acknowledged
// is there afterwards, sealed, and no commit is there by half: key, versions,
// rotation and events belong together.
func TestKill9(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]func(t *testing.T) (path string, env []string, open func() store.Store){
		"sqlite": func(t *testing.T) (string, []string, func() store.Store) {
			path := filepath.Join(t.TempDir(), "keyhole.db")
			return path, nil, func() store.Store { return sqliteAt(t, path) }
		},
		"postgres": func(t *testing.T) (string, []string, func() store.Store) {
			d := postgrestest.Shared(t).Database(t)
			return d.URL, []string{childPassword + "=" + d.PasswordFile}, func() store.Store { return postgresAt(t, config(d)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, env, open := tt(t)
			s := open()
			begun(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			before := uint64(1)
			for round, acks := range []int{1, 2, 7, 19, 40} {
				cmd := child(t, "commit", path)
				cmd.Env = append(cmd.Env, env...)
				acknowledged := acknowledges(t, cmd, before, acks, func() error { return cmd.Process.Kill() })
				s := open()
				before = whole(t, s, fmt.Sprint("round ", round), acknowledged)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// begun makes what the child commits to.
func begun(t *testing.T, s store.Store) {
	t.Helper()
	rotation := storetest.NewRotation("rotation", "payments", 2)
	rotation.Error = "1"
	if err := s.Commit(t.Context(), store.Change{Key: storetest.NewKey("payments", 1), Rotation: rotation}); err != nil {
		t.Fatal(err)
	}
}

// acknowledges lets a child commit, and calls end in the middle of the commit
// behind the first so many, most likely. It returns the last epoch that was
// acknowledged.
func acknowledges(t *testing.T, cmd *exec.Cmd, acknowledged uint64, acks int, end func() error) uint64 {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		if acknowledged, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatal(err)
		}
		if n == acks {
			ended = true
			if err := end(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || !ended {
		t.Fatalf("the process ended by itself: %v", err)
	}
	return acknowledged
}

// whole checks that what was acknowledged is there, and belongs together. It
// returns the epoch.
func whole(t *testing.T, s store.Store, what string, acknowledged uint64) uint64 {
	t.Helper()
	ctx := t.Context()
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
		t.Errorf("%s: epoch %d was acknowledged, the store has %d", what, acknowledged, k.Epoch)
	}
	if uint64(len(k.Versions)) != k.Epoch || r.Error != fmt.Sprint(k.Epoch) || revision != k.Epoch {
		t.Errorf("%s: epoch %d came with %d versions, revision %d and the rotation at %s", what, k.Epoch, len(k.Versions), revision, r.Error)
	}
	if k.Epoch > 1 && (oldest != 1 || newest != 2*(k.Epoch-1) || uint64(len(events)) != newest || uint64(events[newest-1].Version) != k.Epoch) {
		t.Errorf("%s: epoch %d came with the events %d to %d, of which %d are there", what, k.Epoch, oldest, newest, len(events))
	}
	return k.Epoch
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
