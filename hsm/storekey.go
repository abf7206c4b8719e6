package hsm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keyhole/hsm/internal/module"
	"keyhole/keys"
)

// The key behind StoreKey: its label, and what its MAC is made of. Neither
// may ever change: every row of the store depends on them. Users cannot make
// keys of that name (keys.ReservedPrefix), so no caller can have the message
// signed.
const (
	storeKeyLabel   = keys.ReservedPrefix + "store.v1"
	storeKeyMessage = "keyhole: derivation of the key for MACs of the store's rows, version 1"
	storeKeySize    = 32
)

// storeKeyAlgorithms are those that the key is made for, the first one that
// a token has. It is known again by its size.
var storeKeyAlgorithms = []keys.Algorithm{keys.HS256, keys.HS512, keys.HS384}

// StoreKey returns the 32 bytes by which the store's rows are authenticated:
// a MAC over a fixed text by a secret key that cannot leave its token, so that
// whoever has the database and not the token cannot make one. The key is on
// whichever configured token has it. Without one it is made if create says
// so, on the first token that makes MACs. Errors: keys.ErrNotFound (there is
// none, and create is false), ErrUnsupported (no token makes MACs),
// ErrConflict (another gateway has made one at the same time: try again),
// ErrOverloaded, ErrTimeout, ErrHSM (also when there are several keys, or
// one that Keyhole has not made).
func (h *HSM) StoreKey(ctx context.Context, create bool) ([]byte, error) {
	derived, err := h.deriveStoreKey(ctx)
	if err != nil || derived != nil {
		return derived, err
	}
	if !create {
		return nil, keys.Errorf(keys.ErrNotFound, "no token has the key %q, by which the rows of the key database are authenticated", storeKeyLabel)
	}
	ref, err := h.storeKeyRef()
	if err != nil {
		return nil, err
	}
	switch _, err := h.Generate(ctx, ref); {
	case errors.Is(err, keys.ErrKeyExists): // somebody was faster
		return h.deriveStoreKey(ctx)
	case err != nil:
		return nil, fmt.Errorf("making the key %s: %w", storeKeyLabel, err)
	}
	if derived, err = h.deriveStoreKey(ctx); err == nil && derived == nil {
		err = fmt.Errorf("the key %s is not there after it was made: %w", storeKeyLabel, keys.ErrHSM)
	}
	if err == nil {
		return derived, nil
	}
	// Two gateways that begin at once may each have made one. Each takes its
	// own back, for the other may be in use already.
	if derr := h.Destroy(context.WithoutCancel(ctx), ref); derr != nil {
		return nil, fmt.Errorf("%w; and the key that was made is still there: %w", err, derr)
	}
	return nil, fmt.Errorf("%w: %w", keys.Errorf(keys.ErrConflict, "the key %q could not be used after it was made: does another gateway start at the same time? Start again", storeKeyLabel), err)
}

// storeKeyRef names the key to be made.
func (h *HSM) storeKeyRef() (keys.Ref, error) {
	for _, name := range h.names {
		for _, alg := range storeKeyAlgorithms {
			if h.Capable(name, alg) != nil {
				continue
			}
			bits, err := alg.KeyBits(0)
			return keys.Ref{Token: name, ID: keys.NewObjectID(), Label: storeKeyLabel, Algorithm: alg, Bits: bits}, err
		}
	}
	return keys.Ref{}, keys.Errorf(keys.ErrUnsupported, "no token makes MACs (%v), which the key database needs", storeKeyAlgorithms)
}

// deriveStoreKey returns nil if no token has the key.
func (h *HSM) deriveStoreKey(ctx context.Context) ([]byte, error) {
	var derived []byte
	var on []string
	for _, name := range h.names {
		t := h.tokens[name]
		var mac []byte
		var there int
		err := t.tok.Manage(ctx, func(s *module.Session, _ func() bool) error {
			found, err := t.objects.Labelled(s, storeKeyLabel)
			if there = len(found); err != nil || there != 1 {
				return err
			}
			mac, err = t.objects.MAC(s, found[0], storeKeyLabel, storeKeyAlgorithms, []byte(storeKeyMessage))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("looking for the key %s on the token %q: %w", storeKeyLabel, name, err)
		}
		for range there {
			on = append(on, name)
		}
		if there == 1 {
			derived = mac[:storeKeySize:storeKeySize]
		}
	}
	if len(on) > 1 {
		return nil, fmt.Errorf("there are %d keys %s, on the tokens %s; none of them is used, for only one of them is the right one: %w",
			len(on), storeKeyLabel, strings.Join(on, ", "), keys.ErrHSM)
	}
	return derived, nil
}
