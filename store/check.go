package store

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"keyhole/keys"
)

// broken reports a change that no correct caller asks for. The text is for
// the log.
func broken(format string, args ...any) error {
	return fmt.Errorf("refusing a change: %s: %w", fmt.Sprintf(format, args...), keys.ErrInternal)
}

// checkChange refuses a change that makes no sense by itself.
func checkChange(c Change) error {
	k, r := c.Key, c.Rotation
	switch {
	case k == nil && r == nil:
		return broken("it is empty")
	case k == nil && (c.FromEpoch != 0 || c.Delete):
		return broken("it names an epoch or a deletion, and no key")
	case r != nil && (r.ID == "" || r.Phase == "" || r.To == 0):
		return broken("rotation %q of key %q is not filled in", r.ID, r.Key)
	case k == nil:
		return nil
	case keys.CheckName(k.Name) != nil:
		return broken("%q is no key name", k.Name)
	case r != nil && r.Key != k.Name:
		return broken("rotation %s is of key %q, not %q", r.ID, r.Key, k.Name)
	case c.FromEpoch >= math.MaxInt64:
		return broken("key %q has no next epoch", k.Name)
	case c.Delete && c.FromEpoch == 0:
		return broken("key %q is deleted and created at once", k.Name)
	case !c.Delete && k.Epoch != c.FromEpoch+1:
		return broken("key %q goes from epoch %d to %d", k.Name, c.FromEpoch, k.Epoch)
	}
	return nil
}

// checkNew refuses a key that the store should not begin with.
func checkNew(k *keys.Key) error {
	return checkNext(&keys.Key{Name: k.Name, Purpose: k.Purpose, Token: k.Token, CreatedAt: k.CreatedAt}, k)
}

// checkNext refuses to let next follow old where that would undo what is for
// good.
func checkNext(old, next *keys.Key) error {
	if next.Purpose != old.Purpose || next.Token != old.Token || !sameTime(next.CreatedAt, old.CreatedAt) {
		return broken("purpose, token and time of creation of key %q are fixed", old.Name)
	}
	if len(next.Versions) < len(old.Versions) {
		return broken("versions of key %q vanish", old.Name)
	}
	for i, v := range old.Versions {
		if err := checkVersion(old.ID(v), v, next.Versions[i]); err != nil {
			return err
		}
	}
	last := uint32(0)
	if v := old.Latest(); v != nil {
		last = v.Number
	}
	for _, v := range next.Versions[len(old.Versions):] {
		switch id := next.ID(v); {
		case v.Number <= last:
			return broken("version %s comes behind version %d", id, last)
		case v.ObjectID == keys.ObjectID{} || v.ReservedAt.IsZero():
			return broken("version %s is not reserved", id)
		case !v.Algorithm.Known() || v.Algorithm.Purpose() != next.Purpose:
			return broken("version %s has the algorithm %q in a key to %s", id, v.Algorithm, next.Purpose)
		}
		last = v.Number
	}
	return nil
}

// checkVersion compares the stored version with what shall take its place.
func checkVersion(id keys.VersionID, old, next *keys.Version) error {
	switch {
	case next.Number != old.Number:
		return broken("version %s vanishes", id)
	case next.ObjectID != old.ObjectID, next.Algorithm != old.Algorithm, next.Bits != old.Bits, !sameTime(next.ReservedAt, old.ReservedAt):
		return broken("version %s would become another one", id)
	case !old.DestroyedAt.IsZero() && !sameVersion(old, next):
		return broken("version %s is destroyed", id)
	case !old.RevokedAt.IsZero() && !sameTime(next.RevokedAt, old.RevokedAt):
		return broken("version %s is compromised, since %s", id, old.RevokedAt)
	case !old.CreatedAt.IsZero() && !sameMaterial(old, next):
		return broken("version %s is generated: its key material is fixed", id)
	}
	return nil
}

func sameMaterial(a, b *keys.Version) bool {
	return sameTime(a.CreatedAt, b.CreatedAt) && bytes.Equal(a.PublicKey, b.PublicKey) && bytes.Equal(a.Check, b.Check) &&
		a.NeverExtractable == b.NeverExtractable && a.AlwaysSensitive == b.AlwaysSensitive
}

// sameVersion reports whether storing b over a would change nothing.
func sameVersion(a, b *keys.Version) bool {
	return a.Number == b.Number && a.ObjectID == b.ObjectID && a.Algorithm == b.Algorithm && a.Bits == b.Bits && sameMaterial(a, b) &&
		sameTime(a.ReservedAt, b.ReservedAt) && sameTime(a.AnnouncedAt, b.AnnouncedAt) && sameTime(a.ActivateAt, b.ActivateAt) &&
		sameTime(a.SuspendedAt, b.SuspendedAt) && sameTime(a.RevokedAt, b.RevokedAt) && sameTime(a.ArchivedAt, b.ArchivedAt) &&
		sameTime(a.DestroyAt, b.DestroyAt) && sameTime(a.DestroyedAt, b.DestroyedAt) && a.RevokeReason == b.RevokeReason
}

// sameTime compares as the store keeps times.
func sameTime(a, b time.Time) bool {
	return a.IsZero() == b.IsZero() && a.UnixMicro() == b.UnixMicro()
}

// checkDelete says whether a key may be removed, and whether its name is
// retired by that.
func checkDelete(k *keys.Key) (retired bool, err error) {
	made, left := false, false
	for _, v := range k.Versions {
		made = made || !v.CreatedAt.IsZero()
		left = left || !v.CreatedAt.IsZero() && v.DestroyedAt.IsZero()
	}
	if left {
		return false, broken("key %q has versions that are not destroyed", k.Name)
	}
	return made, nil
}

// checkRotation refuses to let next follow old: the writer did not know how
// far the rotation has come.
func checkRotation(old, next *keys.Rotation) error {
	if next.Key != old.Key || next.From != old.From || next.To != old.To || next.Reason != old.Reason ||
		next.StartedBy != old.StartedBy || next.RequestID != old.RequestID || !sameTime(next.StartedAt, old.StartedAt) {
		return broken("rotation %s would become another one", old.ID)
	}
	switch {
	case old.Phase.Done():
		return keys.Errorf(keys.ErrConflict, "rotation %s has ended: it is %s", old.ID, old.Phase)
	case old.Phase == keys.PhaseActivated && next.Phase != keys.PhaseActivated && next.Phase != keys.PhaseCompleted:
		return keys.Errorf(keys.ErrConflict, "rotation %s is behind its switch and cannot become %s", old.ID, next.Phase)
	}
	return nil
}
