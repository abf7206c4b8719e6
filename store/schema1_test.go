package store_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// TestSchema1 opens a store that an older program left: nothing in it is
// sealed, and nothing is lost.
func TestSchema1(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "keyhole.db")
	files := ownMigrations(t)
	delete(files, "migrations/sqlite/0002_lifecycle.sql")
	delete(files, "migrations/sqlite/0003_nodes.sql")
	old, err := store.OpenSQLiteWith(ctx, path, seal, files)
	if err != nil {
		t.Fatal(err)
	}
	old.Exec(t, `INSERT INTO keys (name, purpose, algorithm, bits, description, tags, token, period, epoch, created_at, revision)
		VALUES ('payments', 'sign', 'ES256', 256, 'd', '{"a":"b"}', 'main', 3600000000, 7, 1767323045678901, 7),
		('orders', 'sign', 'ES256', 256, '', '{}', 'main', 0, 1, 1767323045678901, 8)`)
	old.Exec(t, `INSERT INTO versions (key_name, number, cka_id, algorithm, bits, public_key, check_value, never_extractable, always_sensitive, reserved_at, created_at,
		announced_at, activate_at, suspended_at, revoked_at, archived_at, destroy_at, destroyed_at, revoke_reason)
		VALUES ('payments', 1, x'00112233445566778899aabbccddeeff', 'ES256', 256, x'01', x'02', 1, 1, 1767323045678901, 1767323045678902, 1767323045678903, 1767323045678904, NULL, 1767323045678905, NULL, NULL, NULL, 'leaked')`)
	old.Exec(t, `INSERT INTO rotations (id, key_name, from_version, to_version, reason, phase, started_by, request_id, started_at, completed_at, error)
		VALUES ('r1', 'payments', 1, 2, 'manual', 'reserved', 'jwt:corp:alice', 'req', 1767323045678901, NULL, '')`)
	old.Exec(t, "UPDATE meta SET revision = 8")
	old.Exec(t, "INSERT INTO tombstones VALUES ('retired', 3, 5)")
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s := sqliteAt(t, path)
	defer s.Close()
	_, err = s.Key(ctx, "payments")
	if !errors.Is(err, keys.ErrTampered) {
		t.Errorf("an unsealed key: %v", err)
	}
	tellsTheWay(t, err)
	all, revision, err := s.Load(ctx)
	if err != nil || revision != 8 || len(all) != 2 || !all[0].Damaged || !all[1].Damaged {
		t.Errorf("%+v at revision %d, %v", all, revision, err)
	}
	k, err := s.Readable(ctx, "payments")
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int) time.Time {
		return time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC).Add(time.Duration(n) * time.Microsecond)
	}
	want := &keys.Key{
		Name: "payments", Purpose: keys.PurposeSign, Algorithm: keys.ES256, Bits: 256, Description: "d", Tags: map[string]string{"a": "b"}, Token: "main",
		Policy: keys.Policy{Period: time.Hour}, Epoch: 7, CreatedAt: at(0), Damaged: true,
		Versions: []*keys.Version{{
			Number: 1, ObjectID: keys.ObjectID{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}, Algorithm: keys.ES256, Bits: 256,
			PublicKey: []byte{1}, Check: []byte{2}, NeverExtractable: true, AlwaysSensitive: true,
			ReservedAt: at(0), CreatedAt: at(1), AnnouncedAt: at(2), ActivateAt: at(3), RevokedAt: at(4), RevokeReason: "leaked",
		}},
	}
	if diff := cmp.Diff(want, k); diff != "" {
		t.Errorf("what can be read is not what the older program left:\n%s", diff)
	}
	if list, err := s.Rotations(ctx, store.RotationFilter{}); err != nil || len(list) != 0 {
		t.Errorf("unsealed rotations are listed: %+v, %v", list, err)
	}
	if blocked, err := s.Blocked(ctx); err != nil || len(blocked) != 0 {
		t.Errorf("blocked are %v, %v", blocked, err)
	}
	if oldest, newest, err := s.EventRange(ctx); err != nil || oldest != 0 || newest != 0 {
		t.Errorf("events %d to %d, %v", oldest, newest, err)
	}
	if err := s.Adopt(ctx, storetest.NewKey("retired", 1)); !errors.Is(err, keys.ErrKeyRetired) {
		t.Errorf("a name that was retired: %v", err)
	}
	k.Damaged = false
	if err := s.Adopt(ctx, k); err != nil {
		t.Fatal(err)
	}
	adopted, err := s.Key(ctx, "payments")
	if err != nil || adopted.Epoch != 9 {
		t.Fatalf("%+v, %v", adopted, err)
	}
	if err := s.Commit(ctx, store.Change{Rotation: storetest.NewRotation("r2", "payments", 2)}); err != nil {
		t.Error(err)
	}
	create(t, s, storetest.NewKey("new", 2))
}
