package store

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

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
	case k == nil && r == nil && c.Approval == nil && len(c.Notices) == 0:
		return broken("it is empty")
	case k == nil && (c.FromEpoch != 0 || c.Delete):
		return broken("it names an epoch or a deletion, and no key")
	case r != nil && (r.ID == "" || !r.Phase.Known() || r.To == 0):
		return broken("rotation %q of key %q is not filled in", r.ID, r.Key)
	}
	if err := checkBeside(c); err != nil || k == nil {
		return err
	}
	switch {
	case keys.CheckName(k.Name) != nil:
		return broken("%q is no key name", k.Name)
	case k.Damaged:
		return broken("key %q is damaged", k.Name)
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

// checkBeside refuses notices and an approval that make no sense, or are not
// about the key that c is about, and texts that would not come back as they
// are.
func checkBeside(c Change) error {
	key := ""
	switch {
	case c.Key != nil:
		key = c.Key.Name
	case c.Rotation != nil:
		key = c.Rotation.Key
	}
	for _, n := range c.Notices {
		if !slices.Contains(keys.NoticeTypes(), n.Type) || n.At.IsZero() || n.Key == "" || key != "" && n.Key != key {
			return broken("a notice %q of key %q comes with a change of key %q", n.Type, n.Key, key)
		}
		if err := checkTexts("a notice", n.Key, n.Rotation, n.Reason); err != nil {
			return err
		}
	}
	if a := c.Approval; a != nil {
		if key != "" && a.Key != key {
			return broken("approval %s is of key %q, not %q", a.ID, a.Key, key)
		}
		if err := checkFilled(a); err != nil {
			return err
		}
	}
	if c.Rotation == nil {
		return nil
	}
	r := c.Rotation
	return checkTexts("rotation "+r.ID, slices.Concat([]string{
		r.ID, r.Key, string(r.Reason), r.Note, r.StartedBy, r.RequestID, r.Error, r.ForcedBy, r.EndedBy, string(r.Acks.Require), string(r.Acks.OnTimeout),
	}, r.Expected, r.Skipped)...)
}

// checkTexts refuses texts that JSON cannot hold.
func checkTexts(what string, all ...string) error {
	for _, s := range all {
		if !utf8.ValidString(s) {
			return broken("%s holds text that is not UTF-8", what)
		}
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
	if err := checkKeyTexts(next); err != nil {
		return err
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
		case switchedUnmade(v):
			return broken("version %s is active and not generated", id)
		}
		last = v.Number
	}
	return nil
}

func checkKeyTexts(k *keys.Key) error {
	all := []string{string(k.Algorithm), k.Description, k.Token, k.Policy.Schedule, string(k.Policy.AfterOverlap), string(k.Policy.Acks.Require), string(k.Policy.Acks.OnTimeout)}
	for name, value := range k.Tags {
		all = append(all, name, value)
	}
	for _, v := range k.Versions {
		all = append(all, v.Label, v.RevokeReason)
	}
	return checkTexts(fmt.Sprintf("key %q", k.Name), all...)
}

// switchedUnmade reports whether a switch is recorded to a version that
// cannot be active.
func switchedUnmade(v *keys.Version) bool {
	return !v.ActivatedAt.IsZero() && (v.CreatedAt.IsZero() || v.ActivateAt.IsZero())
}

// checkVersion compares the stored version with what shall take its place.
func checkVersion(id keys.VersionID, old, next *keys.Version) error {
	switch {
	case next.Number != old.Number:
		return broken("version %s vanishes", id)
	case next.ObjectID != old.ObjectID && !sameButObject(old, next):
		return broken("version %s is generated, or would become another one", id)
	case next.Algorithm != old.Algorithm, next.Bits != old.Bits, next.Label != old.Label, !sameTime(next.ReservedAt, old.ReservedAt):
		return broken("version %s would become another one", id)
	case !old.DestroyedAt.IsZero() && !sameVersion(old, next):
		return broken("version %s is destroyed", id)
	case !old.RevokedAt.IsZero() && !sameTime(next.RevokedAt, old.RevokedAt):
		return broken("version %s is compromised, since %s", id, old.RevokedAt)
	case !old.ActivatedAt.IsZero() && (!sameTime(next.ActivatedAt, old.ActivatedAt) || !sameTime(next.ActivateAt, old.ActivateAt)):
		return broken("version %s became active at %s", id, old.ActivatedAt)
	case switchedUnmade(next):
		return broken("version %s is active and not generated", id)
	case !old.CreatedAt.IsZero() && !sameMaterial(old, next):
		return broken("version %s is generated: its key material is fixed", id)
	}
	return nil
}

// sameButObject reports whether next is the version old that was never
// generated, with another CKA_ID to be generated under, and nothing else.
func sameButObject(old, next *keys.Version) bool {
	c := *old
	c.ObjectID = next.ObjectID
	return old.CreatedAt.IsZero() && next.ObjectID != keys.ObjectID{} && sameVersion(&c, next)
}

func sameMaterial(a, b *keys.Version) bool {
	return sameTime(a.CreatedAt, b.CreatedAt) && bytes.Equal(a.PublicKey, b.PublicKey) && bytes.Equal(a.Check, b.Check) &&
		a.NeverExtractable == b.NeverExtractable && a.AlwaysSensitive == b.AlwaysSensitive
}

// sameVersion reports whether storing b over a would change nothing.
func sameVersion(a, b *keys.Version) bool {
	return a.Number == b.Number && a.ObjectID == b.ObjectID && a.Algorithm == b.Algorithm && a.Bits == b.Bits && a.Label == b.Label && sameMaterial(a, b) &&
		sameTime(a.ReservedAt, b.ReservedAt) && sameTime(a.AnnouncedAt, b.AnnouncedAt) && sameTime(a.ActivateAt, b.ActivateAt) &&
		sameTime(a.ActivatedAt, b.ActivatedAt) && sameTime(a.SuspendedAt, b.SuspendedAt) && sameTime(a.RevokedAt, b.RevokedAt) && sameTime(a.ArchivedAt, b.ArchivedAt) &&
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

// checkRotation refuses to let next follow old: it would be another one, its
// plan another, or the writer did not know how far the rotation has come.
func checkRotation(old, next *keys.Rotation) error {
	switch {
	case next.Key != old.Key || next.From != old.From || next.To != old.To || next.Reason != old.Reason || next.Note != old.Note ||
		next.StartedBy != old.StartedBy || next.RequestID != old.RequestID || !sameTime(next.StartedAt, old.StartedAt):
		return broken("rotation %s would become another one", old.ID)
	case next.Announce != old.Announce || next.Acks != old.Acks || !sameTime(next.ActivateAt, old.ActivateAt):
		return broken("the plan of rotation %s is fixed", old.ID)
	case old.Phase.Done():
		return keys.Errorf(keys.ErrConflict, "rotation %s has ended: it is %s", old.ID, old.Phase)
	case !old.Phase.Leads(next.Phase):
		return keys.Errorf(keys.ErrConflict, "rotation %s is %s and cannot become %s; read it again", old.ID, old.Phase, next.Phase)
	case !old.AnnouncedAt.IsZero() && !sameTime(next.AnnouncedAt, old.AnnouncedAt):
		return broken("rotation %s was announced at %s", old.ID, old.AnnouncedAt)
	case old.Phase == keys.PhaseActivated && !sameTime(next.SwitchAt, old.SwitchAt):
		return broken("rotation %s has switched at %s", old.ID, old.SwitchAt)
	}
	return nil
}
