package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/hsm"
	"keyhole/keys"
)

// sealOf returns the key that the rows of the store at path are sealed by.
// With a database that is there and a token without that key, one of them is
// not the right one; a new key would make every row look altered.
func sealOf(ctx context.Context, token *hsm.HSM, path string, create bool) ([]byte, error) {
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		create = true
	}
	seal, err := token.StoreKey(ctx, create)
	if errors.Is(err, keys.ErrNotFound) {
		return nil, foreignStore(path, err)
	}
	return seal, HSMError(err)
}

func foreignStore(path string, err error) error {
	return exit.With(exit.Store, "see that tokens[] in the configuration are those that the database was made with; "+
		"`keyholed adopt` makes the database anew from the keys on the token", fmt.Errorf("the database %s cannot be checked: %w", path, err))
}

// sealWait is how long gateways that begin at once may need to agree on one
// key. Each that finds two of them takes its own back: the other may be in
// use already.
const sealWait = 20 * time.Second

// sharedSeal is sealOf for a store that several gateways may begin at once.
func sharedSeal(ctx context.Context, token *hsm.HSM, create bool) ([]byte, error) {
	for deadline := time.Now().Add(sealWait); ; {
		seal, err := token.StoreKey(ctx, create)
		if err == nil || errors.Is(err, keys.ErrNotFound) || time.Now().After(deadline) ||
			!errors.Is(err, keys.ErrConflict) && !errors.Is(err, keys.ErrHSM) {
			return seal, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50*time.Millisecond + rand.N(500*time.Millisecond)): //nolint:gosec // no secret: so that two do not do the same again
		}
	}
}
