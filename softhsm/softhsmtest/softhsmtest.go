// Package softhsmtest gives each test a fresh SoftHSM token of its own.
//
// SoftHSM reads one configuration per process, at C_Initialize, and a token
// made later stays invisible until the module is finalised, which would pull
// it from under the tests that run beside. So the tokens of a whole test
// binary are made before its first test, in one directory:
//
//	func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 20)) }
//
//	func TestSign(t *testing.T) {
//		tok := softhsmtest.Start(t)
//		... open tok.Module, token tok.Serial or tok.Label, with tok.PIN
//	}
package softhsmtest

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"keyhole/softhsm"
)

// pool is what Main made for this process.
var pool struct {
	mu   sync.Mutex
	made int
	free []*softhsm.Token
}

// Main makes n tokens (some 50 ms each; n for every -count), points
// SOFTHSM2_CONF at them, runs the tests, removes everything and returns the
// exit code. Where SoftHSM is missing it says what to install and fails.
func Main(m interface{ Run() int }, n int) int {
	flag.Parse()
	if f, ok := flag.Lookup("test.count").Value.(flag.Getter); ok {
		if count, ok := f.Get().(uint); ok {
			n *= int(count)
		}
	}
	dir, err := os.MkdirTemp("", "keyhole-softhsm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "softhsmtest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir, n); err != nil {
		fmt.Fprintln(os.Stderr, "softhsmtest:", err)
		return 1
	}
	return m.Run()
}

func prepare(dir string, n int) error {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	for i := range n {
		label := fmt.Sprintf("test-%03d", i+1)
		add := softhsm.AddToken
		if i == 0 {
			add = softhsm.New
		}
		t, err := add(dir, label)
		if err != nil {
			return err
		}
		if err := os.Setenv("SOFTHSM2_CONF", t.Conf); err != nil {
			return err
		}
		pool.free = append(pool.free, t)
	}
	pool.made = n
	return nil
}

// Start returns a token that no other test of this process uses. Its label
// is unique among the tokens that the process sees.
func Start(tb testing.TB) *softhsm.Token {
	tb.Helper()
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if pool.made == 0 {
		tb.Fatal("no tokens: this package needs func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, N)) }")
	}
	if len(pool.free) == 0 {
		tb.Fatalf("all %d tokens are taken: raise the number in softhsmtest.Main", pool.made)
	}
	t := pool.free[0]
	pool.free = pool.free[1:]
	return t
}
