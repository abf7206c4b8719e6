// Package audittest vouches for audit logs in tests, by a key in memory.
package audittest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"testing"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/lookup"
)

// Voucher signs checkpoints as keyhole-audit.v1.
type Voucher struct {
	*checkpoint.Key
	Keys *checkpoint.Keys

	private ed25519.PrivateKey
}

// New returns a Voucher with a key of its own.
func New(tb testing.TB) *Voucher {
	tb.Helper()
	v, err := NewVoucher()
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// NewVoucher is New where there is no testing.TB.
func NewVoucher() (*Voucher, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	k, err := checkpoint.NewKey("keyhole-audit.v1", spki)
	if err != nil {
		return nil, err
	}
	return &Voucher{Key: k, Keys: checkpoint.NewKeys(k), private: private}, nil
}

// Sign implements note.Signer.
func (v *Voucher) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(v.private, msg), nil }

// Lookup returns what shows the log in dir, with checkpoints by v.
func (v *Voucher) Lookup(log *audit.Log, dir string) *lookup.Log {
	return lookup.New(lookup.Config{
		Dir: dir, Log: log, Keys: v.Keys.Marshal,
		Vouch: func(context.Context) ([]byte, error) {
			signed, _, err := log.Checkpoint(v)
			return signed, err
		},
	})
}
