package checkpoint_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit/checkpoint"
)

// signer signs as the HSM does.
type signer struct {
	*checkpoint.Key
	sign func(msg []byte) ([]byte, error)
}

func (s signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

func ed(t testing.TB, name string) signer {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key(t, name, pub), func(msg []byte) ([]byte, error) { return ed25519.Sign(priv, msg), nil }}
}

func ec(t testing.TB, name string) signer {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key(t, name, priv.Public()), func(msg []byte) ([]byte, error) {
		sum := sha256.Sum256(msg)
		return ecdsa.SignASN1(rand.Reader, priv, sum[:])
	}}
}

func key(t testing.TB, name string, public any) *checkpoint.Key {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	k, err := checkpoint.NewKey(name, spki)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var sample = checkpoint.Checkpoint{Origin: "keyhole/node-1/0f1e", Size: 7, Root: tlog.RecordHash([]byte("x"))}

func TestSignAndOpen(t *testing.T) {
	t.Parallel()
	for _, s := range []signer{ed(t, "keyhole-audit.v1"), ec(t, "keyhole-audit.v2")} {
		signed, err := checkpoint.Sign(sample, s)
		if err != nil {
			t.Fatal(err)
		}
		got, name, err := checkpoint.Open(signed, checkpoint.NewKeys(s.Key))
		if err != nil || got != sample || name != s.Name() {
			t.Errorf("%s: %+v by %q, %v", s.Name(), got, name, err)
		}
		if got, err := checkpoint.Peek(signed); err != nil || got != sample {
			t.Errorf("%s: peeked %+v, %v", s.Name(), got, err)
		}
		if _, _, err := checkpoint.Open(signed, checkpoint.NewKeys(ed(t, s.Name()).Key)); !errors.Is(err, checkpoint.ErrUnknownKey) {
			t.Errorf("%s: by another key of that name: %v", s.Name(), err)
		}
		for i := range signed { // whatever byte is changed, it is not taken
			bad := bytes.Clone(signed)
			bad[i] ^= 1
			if got, _, err := checkpoint.Open(bad, checkpoint.NewKeys(s.Key)); err == nil {
				t.Errorf("%s: byte %d changed, and it opens as %+v", s.Name(), i, got)
			}
		}
		wrong := bytes.Replace(signed, []byte("\n7\n"), []byte("\n8\n"), 1)
		if _, _, err := checkpoint.Open(wrong, checkpoint.NewKeys(s.Key)); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%s: another size: %v", s.Name(), err)
		}
	}
}

// The unused bits at the end of a signature's base64 cannot be changed either.
func TestOneSpelling(t *testing.T) {
	t.Parallel()
	s := ed(t, "keyhole-audit.v1")
	for c := sample; ; c.Size++ {
		signed, err := checkpoint.Sign(c, s)
		if err != nil {
			t.Fatal(err)
		}
		last := bytes.LastIndexByte(signed, '=') - 1
		if signed[last] != '0' { // its neighbour means the same bytes
			continue
		}
		signed[last] = '1'
		if _, _, err := checkpoint.Open(signed, checkpoint.NewKeys(s.Key)); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("spelled in another way: %v", err)
		}
		return
	}
}

// The library's own verifier takes Ed25519 checkpoints.
func TestStandardVerifier(t *testing.T) {
	t.Parallel()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := signer{key(t, "keyhole-audit.v1", pub), func(msg []byte) ([]byte, error) { return ed25519.Sign(priv, msg), nil }}
	signed, err := checkpoint.Sign(sample, s)
	if err != nil {
		t.Fatal(err)
	}
	var hash [4]byte
	binary.BigEndian.PutUint32(hash[:], s.KeyHash())
	v, err := note.NewVerifier(fmt.Sprintf("keyhole-audit.v1+%x+%s", hash, base64.StdEncoding.EncodeToString(append([]byte{1}, pub...))))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(signed, note.VerifierList(v)); err != nil || n.Text != sample.Text() {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	s := ed(t, "keyhole-audit.v1")
	root := sample.Root.String()
	for _, text := range []string{
		"", "\n", "o\n", "o\n1\n", "o\n-1\n" + root + "\n", "o\n01\n" + root + "\n", "o\n+1\n" + root + "\n", "o\n1\n" + root[:20] + "\n",
		"\n1\n" + root + "\n", "o\n99999999999999999999\n" + root + "\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			continue
		}
		if got, _, err := checkpoint.Open(signed, checkpoint.NewKeys(s.Key)); !errors.Is(err, checkpoint.ErrMalformed) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestKeysFile(t *testing.T) {
	t.Parallel()
	a, b := ed(t, "keyhole-audit.v1"), ec(t, "keyhole-audit.v2")
	file := checkpoint.NewKeys(a.Key, b.Key).Marshal()
	ks, err := checkpoint.ParseKeys(file)
	if err != nil || !slices.Equal(ks.Names(), []string{"keyhole-audit.v1", "keyhole-audit.v2"}) || !bytes.Equal(ks.Marshal(), file) {
		t.Fatalf("%v, %v", ks, err)
	}
	signed, err := checkpoint.Sign(sample, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, by, err := checkpoint.Open(signed, ks); err != nil || by != "keyhole-audit.v2" {
		t.Errorf("by %q, %v", by, err)
	}
	block := string(file[bytes.IndexByte(file, '\n')+1:])
	for name, bad := range map[string]string{
		"empty":     "",
		"no name":   block,
		"twice":     string(file) + string(file),
		"no end":    string(file[:len(file)-10]),
		"rubbish":   "hello\n" + string(file),
		"bad DER":   "# a\n-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"bad b64":   "# a\n-----BEGIN PUBLIC KEY-----\n****\n-----END PUBLIC KEY-----\n",
		"bad name":  strings.Replace(string(file), "keyhole-audit.v1", "a b", 1),
		"a private": "# a\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		if _, err := checkpoint.ParseKeys([]byte(bad)); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	s := ed(t, "keyhole-audit.v1")
	var file, want = []byte(nil), [][]byte(nil)
	for i := range 5 {
		signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: "o", Size: int64(i)}, s)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, signed)
		file = append(file, checkpoint.AppendTo(signed)...)
	}
	read := func(file []byte) (got [][]byte, torn int, err error) {
		for n, e := range checkpoint.Notes(bytes.NewReader(file), func(b int) { torn = b }) {
			if err = e; err != nil {
				return got, torn, err
			}
			if n.Line != len(got)*6+1 {
				t.Errorf("note %d is in line %d", len(got), n.Line)
			}
			got = append(got, n.Signed)
		}
		return got, torn, nil
	}
	got, torn, err := read(file)
	if err != nil || torn != 0 || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("%d notes, %d torn, %v", len(got), torn, err)
	}
	// Cut anywhere, what is whole is read, and the rest is told.
	whole := len(checkpoint.AppendTo(want[0]))
	for cut := range len(file) {
		got, torn, err := read(file[:cut])
		if err != nil || len(got) != cut/whole || torn != cut%whole {
			t.Fatalf("cut at %d: %d notes, %d torn, %v", cut, len(got), torn, err)
		}
	}
	if _, _, err := read(append(bytes.TrimSuffix(bytes.Clone(file), []byte("\n")), "rubbish\n"...)); err == nil {
		t.Error("rubbish behind a checkpoint is taken")
	}
}

func FuzzOpen(f *testing.F) {
	s := ed(f, "keyhole-audit.v1")
	signed, err := checkpoint.Sign(sample, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte("o\n1\nAAAA\n\n— a b\n"))
	known := checkpoint.NewKeys(s.Key)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := checkpoint.Open(b, known)
		if err == nil && c != sample {
			t.Errorf("forged: %+v", c)
		}
		if p, perr := checkpoint.Peek(b); err == nil && (perr != nil || p != c) {
			t.Errorf("peeked %+v, %v", p, perr)
		}
		for range checkpoint.Notes(bytes.NewReader(b), nil) {
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(checkpoint.NewKeys(ed(f, "a.v1").Key, ec(f, "a.v2").Key).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		ks, err := checkpoint.ParseKeys(b)
		if err != nil {
			return
		}
		again, err := checkpoint.ParseKeys(ks.Marshal())
		if err != nil || !slices.Equal(again.Names(), ks.Names()) {
			t.Errorf("%v, %v", again, err)
		}
	})
}
