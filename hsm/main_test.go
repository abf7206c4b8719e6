package hsm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm"
	"keyhole/softhsm/softhsmtest"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 100)) }

// tokenConfig is the configuration of tok, under the name "t".
func tokenConfig(tok *softhsm.Token) TokenConfig {
	return TokenConfig{
		Name: "t", Module: tok.Module, Serial: tok.Serial,
		PIN: func() ([]byte, error) { return []byte(tok.PIN), nil },
	}
}

// start opens tok, and closes it at the test's end.
func start(tb testing.TB, tok *softhsm.Token, change ...func(*Config)) *HSM {
	tb.Helper()
	c := Config{Tokens: []TokenConfig{tokenConfig(tok)}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, f := range change {
		f(&c)
	}
	h, err := Open(context.Background(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// generate makes a key and returns its complete Ref.
func generate(tb testing.TB, h *HSM, label string, alg keys.Algorithm, bits int) keys.Ref {
	tb.Helper()
	ref := keys.Ref{Token: h.DefaultToken(), ID: keys.NewObjectID(), Label: label, Algorithm: alg, Bits: bits}
	made, err := h.Generate(context.Background(), ref)
	if err != nil {
		tb.Fatalf("generating %s: %v", alg, err)
	}
	ref.Bits, err = alg.KeyBits(bits)
	if err != nil {
		tb.Fatal(err)
	}
	ref.PublicKey, ref.Check = made.PublicKey, made.Check
	return ref
}

// input is something that alg signs.
func input(alg keys.Algorithm) []byte {
	message := []byte("a message")
	if !alg.TakesDigest() {
		return message
	}
	h := alg.Hash().New()
	h.Write(message)
	return h.Sum(nil)
}

// raw is a logged-in session of the test's own on h's default token: other
// code of the same process.
func raw(tb testing.TB, h *HSM) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	tb.Helper()
	t := h.tokens[h.DefaultToken()]
	p := pkcs11.New(t.tok.Path()) // the library is loaded once, whatever the number of its users
	s, err := p.OpenSession(t.tok.Slot().ID, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.CloseSession(s) })
	return p, s
}

// search returns the objects that match.
func search(tb testing.TB, p *pkcs11.Ctx, s pkcs11.SessionHandle, match ...*pkcs11.Attribute) []pkcs11.ObjectHandle {
	tb.Helper()
	if err := p.FindObjectsInit(s, match); err != nil {
		tb.Fatal(err)
	}
	found, _, err := p.FindObjects(s, 1000)
	if err := errors.Join(err, p.FindObjectsFinal(s)); err != nil {
		tb.Fatal(err)
	}
	return found
}

func countByID(tb testing.TB, h *HSM, id keys.ObjectID) int {
	tb.Helper()
	p, s := raw(tb, h)
	return len(search(tb, p, s, pkcs11.NewAttribute(pkcs11.CKA_ID, id[:])))
}
