package softhsmtest_test

import (
	"os"
	"testing"

	"keyhole/softhsm"
	"keyhole/softhsm/softhsmtest"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 3)) }

func TestStart(t *testing.T) {
	a, b := softhsmtest.Start(t), softhsmtest.Start(t)
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

func TestStartSaysWhenTokensRunOut(t *testing.T) {
	softhsmtest.Start(t)
	ran := &fatal{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ran.failed {
			softhsmtest.Start(ran)
		}
	}()
	<-done
	if !ran.failed {
		t.Error("Start hands out more tokens than there are")
	}
}
