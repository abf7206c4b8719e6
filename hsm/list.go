package hsm

import (
	"context"
	"errors"
	"slices"
	"time"

	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/objects"
	"keyhole/keys"
)

// Tokens returns the names of all tokens, in the order of the configuration.
func (h *HSM) Tokens() []string { return slices.Clone(h.names) }

// Limits of List.
const (
	listPage     = 256 // objects that are read at one go; others may manage the token in between
	listAttempts = 3   // where the token is logged in anew meanwhile
)

// errMoved says that handles are those of an earlier login.
var errMoved = errors.New("the token was logged in anew")

// List returns every key object on a token, in no order. It may take seconds
// on a full token, and lets other management operations in between: an object
// that comes or goes meanwhile may be in it or not. Errors: keys.ErrInvalid,
// ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) List(ctx context.Context, token string) ([]keys.TokenObject, error) {
	t, err := h.token(token)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		all, err := t.list(ctx)
		if errors.Is(err, errMoved) && attempt < listAttempts {
			continue
		}
		return all, err
	}
}

func (t *token) list(ctx context.Context) ([]keys.TokenObject, error) {
	var found []objects.Found
	var gen uint64
	err := t.tok.Manage(ctx, func(s *module.Session, _ func() bool) (err error) {
		gen = s.Generation()
		found, err = t.objects.All(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	all := make([]keys.TokenObject, 0, len(found))
	for page := range slices.Chunk(found, listPage) {
		var read []keys.TokenObject
		err := t.tok.Manage(ctx, func(s *module.Session, _ func() bool) (err error) {
			read, err = t.describe(s, gen, page)
			return err
		})
		if err != nil {
			return nil, err
		}
		all = append(all, read...)
	}
	return all, nil
}

func (t *token) describe(s *module.Session, gen uint64, page []objects.Found) (read []keys.TokenObject, err error) {
	for _, f := range page {
		if s.Generation() != gen {
			return nil, errMoved
		}
		o, ok, err := t.objects.Describe(s, f)
		if err != nil {
			return nil, err
		}
		if ok {
			read = append(read, o)
		}
	}
	return read, nil
}

// Inspect reads and uses the objects of ref as Generate does after it has
// made them. What ref says of public key and check value must be so; what it
// does not say is found out. Objects that are extractable or not sensitive
// are reported as such, not refused. Errors: keys.ErrNotFound, ErrInvalid
// (they are not what ref says), ErrUnsupported, ErrOverloaded, ErrTimeout,
// ErrHSM.
func (h *HSM) Inspect(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	t, err := h.token(ref.Token)
	if err != nil {
		return keys.Generated{}, err
	}
	if err := h.Capable(ref.Token, ref.Algorithm); err != nil {
		return keys.Generated{}, err
	}
	if ref.Bits, err = ref.Algorithm.KeyBits(ref.Bits); err != nil {
		return keys.Generated{}, err
	}
	var got keys.Generated
	err = t.tok.Manage(ctx, func(s *module.Session, _ func() bool) (err error) {
		got, err = t.objects.Inspect(s, &ref)
		return err
	})
	if err != nil {
		return keys.Generated{}, err
	}
	return got, nil
}

// MarkRevoked leaves a mark on the token that the version of ref is
// compromised. It is idempotent. Errors: keys.ErrUnsupported (the token keeps
// no data objects), ErrInvalid, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error {
	t, err := h.token(ref.Token)
	if err != nil {
		return err
	}
	if _, err := keys.ParseVersionID(id.String()); err != nil {
		return err
	}
	if err := t.marks.Supported(); err != nil {
		return err
	}
	return t.tok.Manage(ctx, func(s *module.Session, _ func() bool) error {
		return t.marks.Put(s, keys.RevocationMark{Version: id, ObjectID: ref.ID, RevokedAt: at})
	})
}

// Revoked returns the marks on a token, and none where it keeps none. Errors:
// keys.ErrInvalid, ErrOverloaded, ErrTimeout, ErrHSM.
func (h *HSM) Revoked(ctx context.Context, token string) ([]keys.RevocationMark, error) {
	t, err := h.token(token)
	if err != nil {
		return nil, err
	}
	if t.marks.Supported() != nil {
		return nil, nil
	}
	var all []keys.RevocationMark
	err = t.tok.Manage(ctx, func(s *module.Session, _ func() bool) (err error) {
		all, err = t.marks.All(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
