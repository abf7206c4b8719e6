package hsm

import (
	"testing"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/softhsm"
	"keyhole/softhsm/softhsmtest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	var tok *softhsm.Token // of the backend opened last
	hsmtest.Run(t, func(t *testing.T) hsmtest.Backend {
		tok = softhsmtest.Start(t)
		return start(t, tok)
	}, hsmtest.Options{Optional: []keys.Algorithm{keys.RSAOAEP256}})
}
