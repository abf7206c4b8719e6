package hsm

import (
	"sync"
	"testing"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/softhsm"
	"keyhole/softhsm/softhsmtest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	var tokens sync.Map // of the backends
	hsmtest.Run(t, func(t *testing.T) hsmtest.Backend {
		tok := softhsmtest.Start(t)
		h := start(t, tok)
		tokens.Store(h, tok)
		return h
	}, hsmtest.Options{
		Optional: []keys.Algorithm{keys.RSAOAEP256}, // SoftHSM 2.6.1 has OAEP with SHA-1 only
		Reopen: func(t *testing.T, b hsmtest.Backend) hsmtest.Backend {
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			tok, _ := tokens.Load(b)
			return start(t, tok.(*softhsm.Token))
		},
	})
}
