package softhsmtest

import (
	"os"
	"testing"

	"keyhole/softhsm"
)

func TestMain(m *testing.M) { os.Exit(Main(m, 2)) }

func TestStart(t *testing.T) {
	t.Parallel()
	a, b := Start(t), Start(t)
	if a.Serial == b.Serial || a.Label == b.Label || a.PIN == b.PIN {
		t.Errorf("two tests share a token: %v, %v", a, b)
	}
	if a.Conf != b.Conf || os.Getenv("SOFTHSM2_CONF") != a.Conf {
		t.Errorf("SOFTHSM2_CONF is %q; the tokens are in %q and %q", os.Getenv("SOFTHSM2_CONF"), a.Conf, b.Conf)
	}
	for _, tok := range []*softhsm.Token{a, b} {
		again, err := softhsm.Open(tok.Dir, tok.Label)
		if err != nil {
			t.Fatal(err)
		}
		if *again != *tok {
			t.Errorf("Open finds %v, not %v, or other PINs", again, tok)
		}
	}
}

func TestTokensRunOut(t *testing.T) {
	t.Parallel()
	var p pool
	if tok, err := p.take(); err == nil {
		t.Errorf("without Main there is %v", tok)
	}
	p.made, p.free = 1, []*softhsm.Token{{Label: "one"}}
	if tok, err := p.take(); err != nil || tok.Label != "one" {
		t.Errorf("the first: %v, %v", tok, err)
	}
	if tok, err := p.take(); err == nil {
		t.Errorf("the second of one: %v", tok)
	}
}
