package store

import (
	"database/sql"
	"fmt"

	"keyhole/keys"
	"keyhole/store/internal/seal"
)

// record is a row, with what belongs to it, as it was read.
type record[T any] struct {
	of       *T // never nil; where broken, nothing in it but its name is to be believed
	revision uint64
	mac      []byte
	broken   bool // it could not be read whole
}

// tampered says why a row that should have the seal want is not to be used,
// or returns nil. what names it, and todo says what helps.
func tampered(mac []byte, broken bool, want []byte, what, todo string) error {
	switch {
	case !broken && seal.Equal(mac, want):
		return nil
	case len(mac) == 0:
		return keys.Errorf(keys.ErrTampered, "%s has no seal: it was stored before there were seals, or somebody altered the database; %s", what, todo)
	}
	return keys.Errorf(keys.ErrTampered, "%s is not what Keyhole stored: somebody altered the database, or it is sealed by another token; %s", what, todo)
}

func (d *database) intactKey(r record[keys.Key]) error {
	return tampered(r.mac, r.broken, d.seal.Key(r.of, r.revision), fmt.Sprintf("key %q", clip(r.of.Name)),
		"nothing is done with it until `keyholed adopt` has rebuilt it")
}

func (d *database) intactRotation(r record[keys.Rotation]) error {
	return tampered(r.mac, r.broken, d.seal.Rotation(r.of), fmt.Sprintf("rotation %q", clip(r.of.ID)), "nothing is done with it; rotate the key anew")
}

func (d *database) intactApproval(r record[keys.Approval]) error {
	return tampered(r.mac, r.broken, d.seal.Approval(r.of), fmt.Sprintf("approval %q", clip(r.of.ID)), "nothing is done with it; ask for the act anew")
}

// readable scans a row. A row of which the columns cannot be read as they
// should is not an error, and ok is false: the first column, its name, is
// then read alone.
func readable(rows *sql.Rows, name *string, dest ...any) (ok bool, err error) {
	if err := rows.Scan(dest...); err == nil {
		return true, nil
	}
	values := make([]any, len(dest))
	for i := range values {
		values[i] = new(any)
	}
	if err := rows.Scan(values...); err != nil {
		return false, err
	}
	*name = nameOf(*values[0].(*any))
	return false, nil
}

// nameOf returns the name of a row in words, whatever is in its column.
func nameOf(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}

const keyColumns = `name, purpose, algorithm, bits, description, tags, token, policy, epoch, created_at, delete_at, revision, mac`

func scanKey(rows *sql.Rows) (r record[keys.Key], err error) {
	k, policy := &keys.Key{}, policyJSON{}
	ok, err := readable(rows, &k.Name, &k.Name, &k.Purpose, &k.Algorithm, &k.Bits, &k.Description, (*tags)(&k.Tags), &k.Token, object{&policy},
		&k.Epoch, (*stamp)(&k.CreatedAt), (*stamp)(&k.DeleteAt), &r.revision, &r.mac)
	k.Policy = policy.decode()
	r.of, r.broken = k, !ok
	return r, err
}

func keyValues(k *keys.Key, revision uint64, mac []byte) []any {
	return []any{
		k.Name, k.Purpose, k.Algorithm, k.Bits, k.Description, tags(k.Tags), k.Token, object{encodePolicy(k.Policy)},
		k.Epoch, stamp(k.CreatedAt), stamp(k.DeleteAt), revision, mac,
	}
}

const versionColumns = `key_name, number, cka_id, algorithm, bits, label, public_key, check_value, never_extractable, always_sensitive, reserved_at, created_at,
	announced_at, activate_at, activated_at, suspended_at, revoked_at, archived_at, destroy_at, destroyed_at, revoke_reason`

// versionRow is a version and the name of its key.
type versionRow struct {
	key string
	record[keys.Version]
}

func scanVersion(rows *sql.Rows) (r versionRow, err error) {
	v, id := &keys.Version{}, []byte{}
	ok, err := readable(rows, &r.key, &r.key, &v.Number, &id, &v.Algorithm, &v.Bits, &v.Label, &v.PublicKey, &v.Check, &v.NeverExtractable, &v.AlwaysSensitive,
		(*stamp)(&v.ReservedAt), (*stamp)(&v.CreatedAt), (*stamp)(&v.AnnouncedAt), (*stamp)(&v.ActivateAt), (*stamp)(&v.ActivatedAt), (*stamp)(&v.SuspendedAt),
		(*stamp)(&v.RevokedAt), (*stamp)(&v.ArchivedAt), (*stamp)(&v.DestroyAt), (*stamp)(&v.DestroyedAt), &v.RevokeReason)
	copy(v.ObjectID[:], id)
	r.of, r.broken = v, !ok || len(id) != len(v.ObjectID)
	return r, err
}

func versionValues(key string, v *keys.Version) []any {
	return []any{
		key, v.Number, v.ObjectID[:], v.Algorithm, v.Bits, v.Label, v.PublicKey, v.Check, v.NeverExtractable, v.AlwaysSensitive,
		stamp(v.ReservedAt), stamp(v.CreatedAt), stamp(v.AnnouncedAt), stamp(v.ActivateAt), stamp(v.ActivatedAt), stamp(v.SuspendedAt),
		stamp(v.RevokedAt), stamp(v.ArchivedAt), stamp(v.DestroyAt), stamp(v.DestroyedAt), v.RevokeReason,
	}
}

const rotationColumns = `id, key_name, from_version, to_version, reason, note, phase, started_by, request_id, started_at, completed_at, error,
	plan, activate_at, announced_at, switch_at, expected, skipped, forced_by, ended_by, mac`

func scanRotation(rows *sql.Rows) (rec record[keys.Rotation], err error) {
	r, plan := &keys.Rotation{}, planJSON{}
	ok, err := readable(rows, &r.ID, &r.ID, &r.Key, &r.From, &r.To, &r.Reason, &r.Note, &r.Phase, &r.StartedBy, &r.RequestID,
		(*stamp)(&r.StartedAt), (*stamp)(&r.CompletedAt), &r.Error, object{&plan}, (*stamp)(&r.ActivateAt), (*stamp)(&r.AnnouncedAt), (*stamp)(&r.SwitchAt),
		(*list)(&r.Expected), (*list)(&r.Skipped), &r.ForcedBy, &r.EndedBy, &rec.mac)
	r.Announce, r.Acks = plan.Announce, keys.Acks(plan.Acks)
	rec.of, rec.broken = r, !ok
	return rec, err
}

func rotationValues(r *keys.Rotation, mac []byte) []any {
	return []any{
		r.ID, r.Key, r.From, r.To, r.Reason, r.Note, r.Phase, r.StartedBy, r.RequestID, stamp(r.StartedAt), stamp(r.CompletedAt), r.Error,
		object{planJSON{r.Announce, acksJSON(r.Acks)}}, stamp(r.ActivateAt), stamp(r.AnnouncedAt), stamp(r.SwitchAt),
		list(r.Expected), list(r.Skipped), r.ForcedBy, r.EndedBy, mac,
	}
}

const approvalColumns = `id, action, key_name, version, force, note, state, requested_by, requested_as, request_id, requested_at, expires_at,
	decided_by, decided_at, decided_note, error, mac`

func scanApproval(rows *sql.Rows) (r record[keys.Approval], err error) {
	a := &keys.Approval{}
	ok, err := readable(rows, &a.ID, &a.ID, &a.Action, &a.Key, &a.Version, &a.Force, &a.Note, &a.State, &a.RequestedBy, (*list)(&a.RequestedAs), &a.RequestID,
		(*stamp)(&a.RequestedAt), (*stamp)(&a.ExpiresAt), &a.DecidedBy, (*stamp)(&a.DecidedAt), &a.DecidedNote, &a.Error, &r.mac)
	r.of, r.broken = a, !ok
	return r, err
}

func approvalValues(a *keys.Approval, mac []byte) []any {
	return []any{
		a.ID, a.Action, a.Key, a.Version, a.Force, a.Note, a.State, a.RequestedBy, list(a.RequestedAs), a.RequestID,
		stamp(a.RequestedAt), stamp(a.ExpiresAt), a.DecidedBy, stamp(a.DecidedAt), a.DecidedNote, a.Error, mac,
	}
}

const noticeColumns = `id, type, at, key_name, version, due, rotation, reason`

// noticeFields are where the columns of a notice are read to.
func noticeFields(n *keys.Notice) []any {
	return []any{&n.ID, &n.Type, (*stamp)(&n.At), &n.Key, &n.Version, (*stamp)(&n.When), &n.Rotation, &n.Reason}
}

func noticeValues(n keys.Notice) []any {
	return []any{n.ID, n.Type, stamp(n.At), n.Key, n.Version, stamp(n.When), n.Rotation, n.Reason}
}
