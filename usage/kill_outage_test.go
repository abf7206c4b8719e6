package usage_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // the driver, to lock a database with

	"keyhole/usage/internal/spill"
)

// lock makes a database that can be read and not written, until unlock.
func lock(tb testing.TB, path string) (unlock func()) {
	tb.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)")
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err == nil {
		_, err = conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return func() {
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		if err != nil || conn.Close() != nil || db.Close() != nil {
			tb.Errorf("unlocking: %v", err)
		}
	}
}

// TestKill9InAnOutage kills a process that counts while nobody can write the
// store, round after round: what was acknowledged is counted, when the store
// can be written again.
func TestKill9InAnOutage(t *testing.T) {
	t.Parallel()
	path, dir := filepath.Join(t.TempDir(), "keyhole.db"), t.TempDir()
	s := open(t, path)
	var acknowledged [killPrincipals]uint64
	for round, more := range []int{1, 60, 800} {
		cmd := child(t, path, dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var unlock func()
		left, empty := -1, int64(0) // lines until the end, once it is an outage
		in := bufio.NewScanner(out)
		for in.Scan() {
			var i int
			var count uint64
			if _, err := fmt.Sscan(in.Text(), &i, &count); err != nil {
				t.Fatalf("%q: %v", in.Text(), err)
			}
			acknowledged[i] = max(acknowledged[i], count)
			switch {
			case unlock == nil:
				empty = size(t, dir)
				unlock = lock(t, path)
			case left < 0 && size(t, dir) > empty:
				left = more
			case left > 0:
				left--
			case left == 0:
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || left != 0 {
			t.Fatalf("round %d: the process ended by itself: %v", round, err)
		}
		unlock()
		k := kitIn(t, dir, s, "node", &clock{})
		for i, want := range acknowledged {
			u := k.stored(fmt.Sprint("jwt:corp:", i))
			if u.Applied < want || u.Bytes < 10*want || want > 0 && u.LastUse.IsZero() {
				t.Errorf("round %d: %d uses of principal %d were acknowledged, the store holds %+v", round, want, i, u)
			}
			acknowledged[i] = u.Applied // the next process goes on from there
		}
		if n := spilled(t, dir); n != 0 {
			t.Errorf("round %d: the file holds %d triples", round, n)
		}
		k.stop()
	}
}

func size(tb testing.TB, dir string) int64 {
	tb.Helper()
	info, err := os.Stat(filepath.Join(dir, spill.Name))
	if err != nil {
		tb.Fatal(err)
	}
	return info.Size()
}
