package hsm

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// locked is a buffer for a log.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestMarksAreWhatKeyholeWrites: nobody without the PIN makes or removes a
// mark, nobody changes one, and what is misspelled is none.
func TestMarksAreWhatKeyholeWrites(t *testing.T) {
	t.Parallel()
	log := &locked{}
	h := start(t, softhsmtest.Start(t), func(c *Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	if info := h.Describe()[0]; !info.KeepsMarks || !info.PrivateMarks {
		t.Fatalf("SoftHSM keeps private data objects, and Describe says %+v", info)
	}
	p, s := raw(t, h)
	ref := generate(t, h, "marked.v3", keys.ES256, 0)
	id := keys.VersionID{Key: "marked", Number: 3}
	if err := h.MarkRevoked(t.Context(), ref, id, time.Now()); err != nil {
		t.Fatal(err)
	}
	found := search(t, p, s, is(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), is(pkcs11.CKA_LABEL, "marked.v3.revoked"))
	if len(found) != 1 {
		t.Fatalf("%d data objects are labelled marked.v3.revoked", len(found))
	}
	got, err := p.GetAttributeValue(s, found[0], []*pkcs11.Attribute{is(pkcs11.CKA_VALUE, nil), is(pkcs11.CKA_PRIVATE, nil), is(pkcs11.CKA_APPLICATION, nil)})
	if err != nil || !bytes.Equal(got[1].Value, []byte{1}) || string(got[2].Value) != "keyhole" {
		t.Fatalf("the mark is %v, %v", got, err)
	}
	for _, change := range []*pkcs11.Attribute{is(pkcs11.CKA_VALUE, "none"), is(pkcs11.CKA_LABEL, "none"), is(pkcs11.CKA_APPLICATION, "none")} {
		if err := p.SetAttributeValue(s, found[0], []*pkcs11.Attribute{change}); err == nil {
			t.Errorf("attribute %#x of a mark can be changed", change.Type)
		}
	}
	data := func(private bool, application, label, value string) {
		t.Helper()
		if _, err := p.CreateObject(s, []*pkcs11.Attribute{
			is(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), is(pkcs11.CKA_TOKEN, true), is(pkcs11.CKA_PRIVATE, private),
			is(pkcs11.CKA_APPLICATION, application), is(pkcs11.CKA_LABEL, label), is(pkcs11.CKA_VALUE, value),
		}); err != nil {
			t.Fatal(err)
		}
	}
	good := string(got[0].Value)
	other := strings.Replace(good, "marked.v3", "marked.v2", 1)
	data(false, "keyhole", "marked.v2.revoked", other) // can be made without a login
	data(true, "another", "marked.v2.revoked", other)
	for i, bad := range []string{"", good, other + " ", other + "\n", strings.ToUpper(other), strings.Replace(other, " ", "  ", 1), strings.Replace(other, "v1", "v2", 1), strings.Replace(other, "marked.v2", "marked.v02", 1)} {
		if i > 0 || bad != "" { // SoftHSM keeps no empty value
			data(true, "keyhole", "marked.v2.revoked", bad)
		}
	}
	all, err := h.Revoked(t.Context(), "t")
	if err != nil || len(all) != 1 || all[0].Version != id || all[0].ObjectID != ref.ID {
		t.Errorf("the marks are %+v, %v; want the one of %s", all, err, id)
	}
	if !strings.Contains(log.String(), "marked.v2.revoked") {
		t.Error("misspelled marks are not reported")
	}
}

// TestTokenWithoutDataObjects, as NSS is one.
func TestTokenWithoutDataObjects(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.fail(fnCreate, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, always)
	h := start(t, tok, f.use)
	if info := h.Describe()[0]; info.KeepsMarks || info.PrivateMarks {
		t.Errorf("Describe says %+v", info)
	}
	ref := generate(t, h, "unmarked.v1", keys.ES256, 0)
	if err := h.MarkRevoked(t.Context(), ref, keys.VersionID{Key: "unmarked", Number: 1}, time.Now()); !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("MarkRevoked: %v, want ErrUnsupported", err)
	}
	if all, err := h.Revoked(t.Context(), "t"); err != nil || len(all) != 0 {
		t.Errorf("Revoked: %v, %v", all, err)
	}
	if _, err := h.StoreKey(t.Context(), true); err != nil {
		t.Errorf("StoreKey: %v", err)
	}
}

// TestTokenWithPublicDataObjectsOnly: better a mark that anybody can remove
// than none.
func TestTokenWithPublicDataObjectsOnly(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	f.fail(fnCreate, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, 1) // the private one of the probe
	h := start(t, tok, f.use)
	if info := h.Describe()[0]; !info.KeepsMarks || info.PrivateMarks {
		t.Errorf("Describe says %+v", info)
	}
	ref := generate(t, h, "public.v1", keys.ES256, 0)
	if err := h.MarkRevoked(t.Context(), ref, keys.VersionID{Key: "public", Number: 1}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if all, err := h.Revoked(t.Context(), "t"); err != nil || len(all) != 1 {
		t.Errorf("Revoked: %v, %v", all, err)
	}
}

// TestMarkedThoughToldOtherwise: a mark whose making was answered by an error
// is made once.
func TestMarkedThoughToldOtherwise(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "again.v1", keys.ES256, 0)
	id := keys.VersionID{Key: "again", Number: 1}
	f.fail(fnCreate, pkcs11.CKR_GENERAL_ERROR, 2) // as SoftHSM answers when another process makes objects
	if err := h.MarkRevoked(t.Context(), ref, id, time.Now()); err != nil {
		t.Error(err)
	}
	f.fail(fnCreate, pkcs11.CKR_DEVICE_ERROR, 1)
	if err := h.MarkRevoked(t.Context(), ref, keys.VersionID{Key: "again", Number: 2}, time.Now()); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("MarkRevoked over a device error: %v, want ErrHSM", err)
	}
	if all, err := h.Revoked(t.Context(), "t"); err != nil || len(all) != 1 {
		t.Errorf("Revoked: %v, %v", all, err)
	}
}
