package gateway

import (
	"context"
	"unicode/utf8"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
)

// Suspend takes a version out of use until Resume.
func (s *Service) Suspend(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionSuspend, name, n, in, Lifecycle.Suspend)
}

// Resume undoes Suspend.
func (s *Service) Resume(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionResume, name, n, in, Lifecycle.Resume)
}

// Revoke declares a version compromised, for good. If it was the active one,
// a successor takes its place.
func (s *Service) Revoke(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionRevoke, name, n, in, Lifecycle.Revoke)
}

// Restore undoes the order to destroy a version.
func (s *Service) Restore(ctx context.Context, req Request, name string, n uint32, in api.VersionActRequest) (api.Key, error) {
	return s.versionAct(ctx, req, authz.ActionRestore, name, n, in, Lifecycle.Restore)
}

func (s *Service) versionAct(ctx context.Context, req Request, action, name string, n uint32, in api.VersionActRequest,
	act func(Lifecycle, context.Context, rotation.Actor, string, uint32, string) (*keys.Key, error),
) (api.Key, error) {
	o := s.open(req, action, name, 0)
	o.rec.Version = n
	return changes(ctx, o, nil, func(ctx context.Context, o *op) (api.Key, error) {
		if err := checkNote(in.Reason); err != nil {
			return api.Key{}, err
		}
		if _, err := o.version(n); err != nil {
			return api.Key{}, err
		}
		return s.described(ctx)(act(o.lifecycle(), ctx, o.actor(), name, n, in.Reason))
	})
}

// RestoreKey undoes the order to delete a key.
func (s *Service) RestoreKey(ctx context.Context, req Request, name string, in api.VersionActRequest) (api.Key, error) {
	return changes(ctx, s.open(req, authz.ActionRestore, name, 0), nil, func(ctx context.Context, o *op) (api.Key, error) {
		if err := checkNote(in.Reason); err != nil {
			return api.Key{}, err
		}
		return s.described(ctx)(o.lifecycle().RestoreKey(ctx, o.actor(), name, in.Reason))
	})
}

// checkNote bounds what callers say to what they do.
func checkNote(s string) error {
	if len(s) > maxNote || !utf8.ValidString(s) {
		return keys.Errorf(keys.ErrInvalid, "the reason must be UTF-8 of at most %d bytes", maxNote)
	}
	return nil
}
