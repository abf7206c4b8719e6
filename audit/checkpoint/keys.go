package checkpoint

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key is the public half of an audit key: Ed25519, or ECDSA on P-256 with
// SHA-256. It implements note.Verifier. Its name is the version id.
type Key struct {
	name   string
	hash   uint32
	public any
	spki   []byte
}

// NewKey makes a Key of a DER SubjectPublicKeyInfo.
func NewKey(name string, spki []byte) (*Key, error) {
	if name == "" || strings.ContainsAny(name, "+ \t\r\n") {
		return nil, fmt.Errorf("%q cannot name an audit key", name)
	}
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("the audit key %s: %w", name, err)
	}
	k := &Key{name: name, public: public, spki: bytes.Clone(spki)}
	switch p := public.(type) {
	case ed25519.PublicKey:
		sum := sha256.Sum256(append([]byte(name+"\n\x01"), p...))
		k.hash = binary.BigEndian.Uint32(sum[:])
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return nil, fmt.Errorf("the audit key %s is on %s; P-256 or Ed25519 sign checkpoints", name, p.Curve.Params().Name)
		}
		sum := sha256.Sum256(spki)
		k.hash = binary.BigEndian.Uint32(sum[:])
	default:
		return nil, fmt.Errorf("the audit key %s is of the type %T; P-256 or Ed25519 sign checkpoints", name, public)
	}
	return k, nil
}

// Name implements note.Verifier and note.Signer.
func (k *Key) Name() string { return k.name }

// KeyHash implements note.Verifier and note.Signer: the key ID of
// c2sp.org/signed-note.
func (k *Key) KeyHash() uint32 { return k.hash }

// Verify implements note.Verifier. ECDSA signatures are in DER.
func (k *Key) Verify(msg, sig []byte) bool {
	switch p := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(p, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(p, sum[:], sig)
	}
	return false
}

// Keys are the audit keys that a reader trusts, in the order of the file.
type Keys struct {
	all []*Key
}

// NewKeys returns a set of keys.
func NewKeys(all ...*Key) *Keys { return &Keys{all: all} }

// Verifier implements note.Verifiers.
func (ks *Keys) Verifier(name string, hash uint32) (note.Verifier, error) {
	if ks != nil {
		for _, k := range ks.all {
			if k.name == name && k.hash == hash {
				return k, nil
			}
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

// Names returns the version ids of the keys.
func (ks *Keys) Names() []string {
	names := make([]string, len(ks.all))
	for i, k := range ks.all {
		names[i] = k.name
	}
	return names
}

const pemType = "PUBLIC KEY"

// Marshal writes the keys as PEM blocks, each behind a line "# " and its
// version id.
func (ks *Keys) Marshal() []byte {
	var out bytes.Buffer
	for _, k := range ks.all {
		fmt.Fprintf(&out, "# %s\n%s", k.name, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: k.spki}))
	}
	return out.Bytes()
}

// ParseKeys reads what Marshal wrote. It is strict: everything in the file is
// a named key or an empty line, and no name is there twice.
func ParseKeys(file []byte) (*Keys, error) {
	ks := &Keys{}
	name, block := "", []string(nil)
	seen := map[string]bool{}
	for i, line := range strings.Split(string(file), "\n") {
		line = strings.TrimRight(line, "\r \t")
		switch comment, isName := strings.CutPrefix(line, "# "); {
		case isName && block == nil:
			name = strings.TrimSpace(comment)
		case line == "" && block == nil:
		case line == "-----BEGIN "+pemType+"-----" && block == nil:
			if name == "" {
				return nil, fmt.Errorf("line %d: the key has no name; write a line such as \"# keyhole-audit.v1\" in front of it", i+1)
			}
			block = []string{}
		case line == "-----END "+pemType+"-----" && block != nil:
			der, err := base64.StdEncoding.DecodeString(strings.Join(block, ""))
			if err != nil {
				return nil, fmt.Errorf("line %d: the key %s is not in base64", i+1, name)
			}
			k, err := NewKey(name, der)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			if seen[name] {
				return nil, fmt.Errorf("line %d: the key %s is there twice", i+1, name)
			}
			seen[name] = true
			ks.all = append(ks.all, k)
			name, block = "", nil
		case block != nil && len(block) < 100:
			block = append(block, line)
		default:
			return nil, fmt.Errorf("line %d: this is no file of audit keys: names (\"# keyhole-audit.v1\") and %s blocks", i+1, pemType)
		}
	}
	if block != nil {
		return nil, fmt.Errorf("the key %s has no end", name)
	}
	if len(ks.all) == 0 {
		return nil, fmt.Errorf("there is no audit key in the file")
	}
	return ks, nil
}
