// Package vouch signs checkpoints of the audit log with the audit key in the
// HSM, and keeps the file of audit keys that an auditor verifies with.
package vouch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"keyhole/audit/checkpoint"
	"keyhole/keys"
)

// Log gives checkpoints; see audit.Log.
type Log interface {
	Checkpoint(s note.Signer) (signed []byte, c checkpoint.Checkpoint, err error)
}

// Config is what a Voucher needs.
type Config struct {
	Log      Log
	Key      func() (*keys.Key, error) // the audit key, as of now
	Sign     func(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error)
	KeysFile string
	Interval time.Duration // between checkpoints
	Now      func() time.Time
	Slog     *slog.Logger
	Observe  func(size int64, err error)
}

// Voucher signs checkpoints.
type Voucher struct {
	c Config

	mu      sync.Mutex
	written []byte // what the file of keys holds
	failing bool
}

// ErrOtherKeys says that the file of audit keys is not of this gateway's HSM.
var ErrOtherKeys = errors.New("the file holds other audit keys than the HSM")

// signTimeout bounds one signature.
const signTimeout = 10 * time.Second

// New returns a Voucher. It does nothing by itself.
func New(c Config) *Voucher { return &Voucher{c: c} }

// LoadKeys reads a file of audit keys; nil if there is none yet.
func LoadKeys(path string) (*checkpoint.Keys, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the audit keys: %w", err)
	}
	ks, err := checkpoint.ParseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("the audit keys in %s: %w", path, err)
	}
	return ks, nil
}

// Run signs a checkpoint each interval, until ctx ends, and a last one then.
func (v *Voucher) Run(ctx context.Context) error {
	t := time.NewTicker(v.c.Interval)
	defer t.Stop()
	for {
		_, _, err := v.Checkpoint(context.WithoutCancel(ctx))
		v.settle(ctx, err)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// settle logs the first of several failures in a row, and their end.
func (v *Voucher) settle(ctx context.Context, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil && !v.failing:
		v.c.Slog.ErrorContext(ctx, "no checkpoint of the audit log; trying again", "err", err)
	case err == nil && v.failing:
		v.c.Slog.InfoContext(ctx, "checkpoints of the audit log are signed again")
	}
	v.failing = err != nil
}

// Checkpoint signs the log as it is now, or returns the last checkpoint if
// nothing was recorded since.
func (v *Voucher) Checkpoint(ctx context.Context) (signed []byte, c checkpoint.Checkpoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	defer func() { v.c.Observe(c.Size, err) }()
	k, err := v.c.Key()
	if err != nil {
		return nil, c, err
	}
	// Whoever finds a checkpoint must find its key.
	if err := v.writeKeys(k); err != nil {
		return nil, c, err
	}
	active := k.ActiveAt(v.c.Now())
	if active == nil {
		return nil, c, keys.Errorf(keys.ErrNoActiveVersion, "the audit key %s has no active version; resume or rotate it", keys.AuditKeyName)
	}
	public, err := checkpoint.NewKey(k.ID(active).String(), active.PublicKey)
	if err != nil {
		return nil, c, err
	}
	return v.c.Log.Checkpoint(&signer{Key: public, sign: func(msg []byte) ([]byte, error) { return v.sign(ctx, k.Ref(active), msg) }})
}

func (v *Voucher) sign(ctx context.Context, ref keys.Ref, msg []byte) ([]byte, error) {
	if ref.Algorithm == keys.EdDSA {
		return v.c.Sign(ctx, ref, msg)
	}
	sum := sha256.Sum256(msg)
	raw, err := v.c.Sign(ctx, ref, sum[:])
	if err != nil {
		return nil, err
	}
	half := len(raw) / 2 // r||s
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

type signer struct {
	*checkpoint.Key
	sign func(msg []byte) ([]byte, error)
}

// Sign implements note.Signer.
func (s *signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// Keys returns what the file of audit keys holds; empty before the first
// checkpoint.
func (v *Voucher) Keys() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.written
}

// writeKeys brings the file of audit keys up to date: every version that was
// ever generated, also destroyed ones, for their checkpoints stay. A key in
// the file that is not in the store is kept, and told.
func (v *Voucher) writeKeys(k *keys.Key) error {
	var all []*checkpoint.Key
	for _, version := range k.Versions {
		if version.CreatedAt.IsZero() || len(version.PublicKey) == 0 {
			continue
		}
		public, err := checkpoint.NewKey(k.ID(version).String(), version.PublicKey)
		if err != nil {
			return err
		}
		all = append(all, public)
	}
	file := checkpoint.NewKeys(all...).Marshal()
	v.mu.Lock()
	defer v.mu.Unlock()
	if bytes.Equal(file, v.written) {
		return nil
	}
	found, err := os.ReadFile(v.c.KeysFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the audit keys: %w", err)
	}
	if err == nil && !bytes.HasPrefix(file, found) {
		return fmt.Errorf("%w: %s; move it away if you know why, and restart the gateway", ErrOtherKeys, v.c.KeysFile)
	}
	if !bytes.Equal(found, file) {
		if err := replace(v.c.KeysFile, file); err != nil {
			return fmt.Errorf("writing the audit keys: %w", err)
		}
	}
	v.written = file
	return nil
}

// replace writes a file anew: write, fsync, rename, fsync of the directory.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
