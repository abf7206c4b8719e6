package objects

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 1)) }

// TestReadBack compares an object with templates that it does not fit.
func TestReadBack(t *testing.T) {
	t.Parallel()
	st := softhsmtest.Start(t)
	log := slog.New(slog.DiscardHandler)
	tok, err := module.Load(module.Config{
		Name: "t", Module: st.Module, Serial: st.Serial, Log: log,
		PIN:     func() ([]byte, error) { return []byte(st.PIN), nil },
		Observe: func(string, string, string, time.Duration) {}, Reopened: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Open(); err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	k := New(tok, log, mech.IVCaller, template.EdwardsCurves[0])
	err = tok.Manage(t.Context(), func(s *module.Session, _ func() bool) error {
		readBack(t, k, s)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func readBack(t *testing.T, k *Keys, s *module.Session) {
	ref := keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "read-back.v1", Algorithm: keys.ES256, Bits: 256}
	if _, err := k.Generate(s, &ref); err != nil {
		t.Error(err)
		return
	}
	key, err := k.findKey(s, ref.ID, ref.Algorithm, findAttempts)
	if err != nil {
		t.Error(err)
		return
	}
	tmpl := template.New(template.Spec{Alg: keys.ES256, Bits: 256, ID: ref.ID[:], Label: ref.Label, Token: true})
	if err := k.readBack(s, key, tmpl.Private); err != nil {
		t.Error(err)
		return
	}
	for i, a := range tmpl.Private {
		wrong := bytes.Clone(a.Value)
		wrong[0] ^= 1
		changed := append([]*pkcs11.Attribute{}, tmpl.Private...)
		changed[i] = &pkcs11.Attribute{Type: a.Type, Value: wrong}
		if err := k.readBack(s, key, changed); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("attribute %#x differs: %v", a.Type, err)
		}
	}
	// What the token does not know must not have been asked for.
	if err := k.readBack(s, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true)}); err == nil {
		t.Error("a usage that is not there counts as true")
	}
}
