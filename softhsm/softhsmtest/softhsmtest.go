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
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"keyhole/softhsm"
)

// pool holds the tokens that no test has taken yet.
type pool struct {
	mu   sync.Mutex
	made int
	free []*softhsm.Token
}

// tokens is what Main made for this process.
var tokens pool

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
	if err := tokens.fill(dir, n); err != nil {
		fmt.Fprintln(os.Stderr, "softhsmtest:", err)
		return 1
	}
	return m.Run()
}

func (p *pool) fill(dir string, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		add := softhsm.AddToken
		if i == 0 {
			add = softhsm.New
		}
		t, err := add(dir, fmt.Sprintf("test-%03d", i+1))
		if err != nil {
			return err
		}
		if err := os.Setenv("SOFTHSM2_CONF", t.Conf); err != nil {
			return err
		}
		p.free = append(p.free, t)
	}
	p.made = n
	return nil
}

func (p *pool) take() (*softhsm.Token, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made == 0 {
		return nil, errors.New("no tokens: this package needs func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, N)) }")
	}
	if len(p.free) == 0 {
		return nil, fmt.Errorf("all %d tokens are taken: raise the number in softhsmtest.Main", p.made)
	}
	t := p.free[0]
	p.free = p.free[1:]
	return t, nil
}

// Start returns a token that no other test of this process uses. Its label
// is unique among the tokens that the process sees.
func Start(tb testing.TB) *softhsm.Token {
	tb.Helper()
	t, err := tokens.take()
	if err != nil {
		tb.Fatal(err)
	}
	return t
}
