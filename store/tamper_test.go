package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// world is a store with a row of every kind, and its database opened behind
// its back with nothing that holds an attacker up.
type world struct {
	store.Store
	raw      *sql.DB
	file     *store.SQLite // nil over PostgreSQL
	open     func(key []byte) (store.Store, error)
	dialect  dialect
	approval *keys.Approval
}

// dialect is where the two databases differ for an attacker.
type dialect struct {
	row     string              // a column that names a row, whatever is altered of it
	columns string              // a query for the columns of a table, and their types
	quoted  string              // an expression for a column as a literal
	nothing string              // empty bytes, quoted
	values  map[string][]string // that a column of a type is altered to
}

var sqliteDialect = dialect{
	row: "rowid", columns: "SELECT name, type FROM pragma_table_info(?)", quoted: "quote(%s)", nothing: "X''",
	values: map[string][]string{
		"INTEGER": {"%s + 1", "-1", "9223372036854775807", "NULL"},
		"TEXT":    {"%s || 'x'", "''", "'{}'", "'null'"},
		"BLOB":    {"CAST(x'00' || substr(%s, 2) AS BLOB)", "CAST(%s || x'00' AS BLOB)", "x''", "NULL"},
	},
}

var postgresDialect = dialect{
	row: "attacked", columns: "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1 AND column_name <> 'attacked'",
	quoted: "quote_nullable(CAST(%s AS TEXT))", nothing: `E'\\x'`,
	values: map[string][]string{
		"bigint":  {"%s + 1", "-1", "9223372036854775807", "NULL"},
		"text":    {"%s || 'x'", "''", "'{}'", "'null'", `%s || E'\x01'`},
		"boolean": {"NOT %s", "NULL"},
		"bytea":   {`'\x00'::bytea || substr(%s, 2)`, `%s || '\x00'::bytea`, `'\x'`, "NULL"},
	},
}

// worlds runs a test over both databases.
func worlds(t *testing.T, test func(t *testing.T, make func(t *testing.T) *world)) {
	t.Helper()
	for name, make := range map[string]func(t *testing.T) *world{"sqlite": newTamperWorld, "postgres": newPostgresWorld} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make)
		})
	}
}

func newTamperWorld(t *testing.T) *world {
	t.Helper()
	s, path := newSQLite(t)
	w := &world{Store: s, file: s, raw: raw(t, path), dialect: sqliteDialect, open: func(key []byte) (store.Store, error) { return store.OpenSQLite(t.Context(), path, key) }}
	w.exec(t, "PRAGMA busy_timeout = 5000; PRAGMA synchronous = OFF; PRAGMA foreign_keys = 0; PRAGMA ignore_check_constraints = 1")
	w.settle(t)
	return w
}

func newPostgresWorld(t *testing.T) *world {
	t.Helper()
	s, d := newPostgres(t)
	w := &world{Store: s, raw: d.Admin(t), dialect: postgresDialect, open: func(key []byte) (store.Store, error) { return store.OpenPostgres(t.Context(), config(d), key) }}
	w.exec(t, "ALTER TABLE versions DROP CONSTRAINT versions_key_name_fkey, DROP CONSTRAINT versions_number_check, DROP CONSTRAINT versions_cka_id_check; ALTER TABLE keys DROP CONSTRAINT keys_epoch_check; "+
		"CREATE FUNCTION randomblob(integer) RETURNS bytea LANGUAGE sql AS 'SELECT decode(md5(random()::text), ''hex'')'")
	for _, table := range sealedTables {
		w.exec(t, "ALTER TABLE "+table+" ADD COLUMN attacked BIGSERIAL; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "+d.User)
	}
	w.settle(t)
	return w
}

var sealedTables = []string{"keys", "versions", "rotations", "approvals", "sealed"}

// settle makes the rows.
func (w *world) settle(t *testing.T) {
	t.Helper()
	s := w.Store
	ctx, at := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k := storetest.NewKey("payments", 3)
	k.Description, k.Tags = "d", map[string]string{"a": "b"}
	k.Policy = keys.Policy{Period: time.Hour, Acks: keys.Acks{Require: keys.AckAll, Timeout: time.Hour}}
	k.Versions[0].RevokedAt, k.Versions[0].RevokeReason = at, "leaked"
	k.Versions[2].ActivatedAt = k.Versions[2].ActivateAt
	r := storetest.NewRotation("rotation", "payments", 4)
	r.Acks, r.Expected = k.Policy.Acks, []string{"jwt:corp:bob"}
	other := storetest.NewKey("other", 3)
	create(t, s, storetest.NewKey("gone", 0), other)
	a := &keys.Approval{
		ID: "approval", Action: "destroy", Key: "payments", Version: 1, State: keys.ApprovalPending,
		RequestedBy: "jwt:corp:alice", RequestedAs: []string{"jwt:corp:alice"}, RequestID: "req", RequestedAt: at, ExpiresAt: at.Add(time.Hour),
	}
	for what, err := range map[string]error{
		"the key":      s.Commit(ctx, store.Change{Key: k, Rotation: r}),
		"the approval": s.PutApproval(ctx, a, ""),
		"the block":    s.BlockAgent(ctx, "jwt:corp:mallory", &keys.Block{At: at, By: "jwt:corp:alice", Reason: "r"}),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	w.approval = a
	if found := w.found(t); len(found) != 0 {
		t.Fatalf("nothing was altered, and found is %v", found)
	}
}

func (w *world) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if _, err := w.raw.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// attack edits the file, lets check judge what the store finds, and puts the
// file back.
func (w *world) attack(t *testing.T, what string, check func(found map[string]bool), edits ...string) {
	t.Helper()
	var keep, restore strings.Builder
	for _, table := range append([]string{"meta"}, sealedTables...) {
		fmt.Fprintf(&keep, "CREATE TABLE kept_%[1]s AS SELECT * FROM %[1]s;", table)
		fmt.Fprintf(&restore, "DELETE FROM %[1]s; INSERT INTO %[1]s SELECT * FROM kept_%[1]s; DROP TABLE kept_%[1]s;", table)
	}
	w.exec(t, "BEGIN; "+keep.String()+strings.Join(edits, ";")+"; COMMIT")
	check(w.found(t))
	if t.Failed() {
		t.Fatalf("behind %s: %v", what, edits)
	}
	w.exec(t, "BEGIN; "+restore.String()+"COMMIT")
}

// found returns what every way to read says is altered, and checks that they
// agree.
func (w *world) found(t *testing.T) map[string]bool {
	t.Helper()
	ctx, found := t.Context(), map[string]bool{}
	all, revision, err := w.Load(ctx)
	if err != nil {
		t.Fatalf("loading: %v", err)
	}
	changed, _, _, err := w.Changed(ctx, 0)
	if err != nil {
		t.Fatalf("following: %v", err)
	}
	inLoad := map[string]*keys.Key{}
	for _, k := range all {
		inLoad[k.Name] = k
		if k.Damaged {
			if diff := cmp.Diff(&keys.Key{Name: k.Name, Damaged: true}, k, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("a Damaged key comes with more than its name:\n%s", diff)
			}
		}
	}
	for _, k := range changed {
		if !cmp.Equal(inLoad[k.Name], k) {
			t.Errorf("Changed says %+v and Load %+v", k, inLoad[k.Name])
		}
	}
	for _, name := range []string{"payments", "other", "gone"} {
		k, err := w.Key(ctx, name)
		switch inLoad := inLoad[name]; {
		case errors.Is(err, keys.ErrTampered):
			found[name] = true
			tellsTheWay(t, err)
			if inLoad == nil || !inLoad.Damaged {
				t.Errorf("%s is altered, and Load says %+v", name, inLoad)
			}
			next := storetest.NewKey(name, 1)
			for from := range uint64(2) {
				next.Epoch = from + 1
				if err := w.Commit(ctx, store.Change{Key: next, FromEpoch: from}); !errors.Is(err, keys.ErrTampered) {
					t.Errorf("committing to an altered key: %v", err)
				}
			}
			if err := w.Commit(ctx, store.Change{Key: next, FromEpoch: 1, Delete: true}); err == nil {
				t.Error("an altered key was deleted")
			}
			_, err := w.Subscribe(ctx, keys.Subscription{Key: name, Principal: "p", Since: time.Now()})
			if !errors.Is(err, keys.ErrTampered) {
				t.Errorf("subscribing to an altered key: %v", err)
			}
			if k, err := w.Readable(ctx, name); err != nil || !k.Damaged {
				t.Errorf("what can be read of %s: %+v, %v", name, k, err)
			}
		case errors.Is(err, keys.ErrKeyNotFound):
			found["no "+name] = true
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !cmp.Equal(k, inLoad, cmpopts.EquateEmpty()):
			t.Errorf("Key says %+v and Load %+v", k, inLoad)
		}
	}
	r, err := w.Rotation(ctx, "rotation")
	switch list, lerr := w.Rotations(ctx, store.RotationFilter{}); {
	case lerr != nil:
		t.Errorf("rotations: %v", lerr)
	case err != nil:
		found["rotation"] = true
		if len(list) != 0 {
			t.Errorf("an altered rotation is listed: %+v", list[0])
		}
		if _, err := w.RotationByRequest(ctx, "req-rotation"); err == nil {
			t.Error("an altered rotation is found by its request")
		}
	case len(list) != 1:
		t.Errorf("rotation %+v is not listed", r)
	}
	a, err := w.Approval(ctx, "approval")
	switch list, lerr := w.Approvals(ctx, store.ApprovalFilter{}); {
	case lerr != nil:
		t.Errorf("approvals: %v", lerr)
	case err != nil:
		found["approval"] = true
		if len(list) != 0 {
			t.Errorf("an altered approval is listed: %+v", list[0])
		}
		approved := *w.approval
		approved.State, approved.DecidedBy, approved.DecidedAt = keys.ApprovalApproved, "jwt:corp:bob", approved.RequestedAt
		if err := w.PutApproval(ctx, &approved, keys.ApprovalPending); err == nil {
			t.Error("an altered approval was approved")
		}
		if err := w.Commit(ctx, store.Change{Approval: &approved}); err == nil {
			t.Error("an altered approval was approved by a commit")
		}
	case len(list) != 1:
		t.Errorf("approval %+v is not listed", a)
	}
	if _, err := w.Blocked(ctx); errors.Is(err, keys.ErrTampered) {
		found["blocks"] = true
		tellsTheWay(t, err)
		if err := w.BlockAgent(ctx, "jwt:corp:mallory", nil); !errors.Is(err, keys.ErrTampered) {
			t.Errorf("somebody came off an altered list: %v", err)
		}
	} else if err != nil {
		t.Errorf("blocked: %v", err)
	}
	if _, now, err := w.Load(ctx); err != nil || now != revision {
		t.Errorf("refused commits made revision %d from %d, %v", now, revision, err)
	}
	return found
}

func tellsTheWay(t *testing.T, err error) {
	t.Helper()
	var e *keys.Error
	if !errors.As(err, &e) || !strings.Contains(e.Detail, "keyholed adopt") {
		t.Errorf("%v does not say what to do", err)
	}
}

// TestEveryColumnIsSealed alters each column of each sealed table alone, in
// each way that makes a difference.
func TestEveryColumnIsSealed(t *testing.T) {
	t.Parallel()
	worlds(t, testEveryColumnIsSealed)
}

func testEveryColumnIsSealed(t *testing.T, make func(t *testing.T) *world) {
	w := make(t)
	for table, sealed := range map[string]struct{ row, what string }{
		"keys":      {"name = 'payments'", "payments"},
		"versions":  {"key_name = 'payments' AND number = 1", "payments"},
		"rotations": {"id = 'rotation'", "rotation"},
		"approvals": {"id = 'approval'", "approval"},
		"sealed":    {"name = 'blocks'", "blocks"},
	} {
		columns := w.columns(t, table)
		if len(columns) < 4 {
			t.Fatalf("%s has the columns %v", table, columns)
		}
		for column, kind := range columns {
			quoted := fmt.Sprintf(w.dialect.quoted, column)
			var was string
			var row int64
			if err := w.raw.QueryRowContext(t.Context(), "SELECT "+quoted+", "+w.dialect.row+" FROM "+table+" WHERE "+sealed.row).Scan(&was, &row); err != nil {
				t.Fatal(err)
			}
			at := fmt.Sprintf(" WHERE %s = %d", w.dialect.row, row)
			set := func(value string) string { return "UPDATE " + table + " SET " + column + " = " + value + at }
			tried := 0
			for _, value := range w.dialect.values[kind] {
				value = strings.ReplaceAll(value, "%s", column)
				if _, err := w.raw.ExecContext(t.Context(), set(value)); err != nil {
					continue // NULL where none may be, or a type that the column does not take
				}
				var now string
				if err := w.raw.QueryRowContext(t.Context(), "SELECT "+quoted+" FROM "+table+at).Scan(&now); err != nil {
					t.Fatal(err)
				}
				if now != was && (was != "NULL" || now != w.dialect.nothing) {
					tried++
					w.only(t, set(value), sealed.what)
				}
				w.exec(t, set(was))
			}
			if tried < 2 && (kind != "boolean" || tried == 0) {
				t.Errorf("%s.%s was altered %d times", table, column, tried)
			}
		}
	}
	if found := w.found(t); len(found) != 0 {
		t.Errorf("when all was put back, found %v", found)
	}
}

// only checks that one thing is altered, by the shortest way to ask.
func (w *world) only(t *testing.T, edit, what string) {
	t.Helper()
	ctx := t.Context()
	all, _, err := w.Load(ctx)
	if err != nil {
		t.Fatalf("%s: %v", edit, err)
	}
	intact := map[string]bool{}
	for _, k := range all {
		intact[k.Name] = !k.Damaged
	}
	_, err = w.Rotation(ctx, "rotation")
	intact["rotation"] = err == nil
	_, err = w.Approval(ctx, "approval")
	intact["approval"] = err == nil
	_, err = w.Blocked(ctx)
	intact["blocks"] = err == nil
	for _, name := range []string{"payments", "other", "gone", "rotation", "approval", "blocks"} {
		if intact[name] != (name != what) {
			t.Errorf("%s: that %s is intact is %v", edit, name, intact[name])
		}
	}
}

func (w *world) columns(t *testing.T, table string) map[string]string {
	t.Helper()
	rows, err := w.raw.QueryContext(t.Context(), w.dialect.columns, table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			t.Fatal(err)
		}
		all[name] = kind
	}
	return all
}

// TestAttacks alters rows in the ways that an attacker would.
func TestAttacks(t *testing.T) {
	t.Parallel()
	worlds(t, testAttacks)
}

func testAttacks(t *testing.T, make func(t *testing.T) *world) {
	w := make(t)
	const swapMACs = "UPDATE %[1]s SET mac = (SELECT mac FROM %[1]s WHERE name = '%[3]s') WHERE name = '%[2]s'"
	for what, tt := range map[string]struct {
		edits []string
		found string
	}{
		"a revocation is taken back":   {[]string{"UPDATE versions SET revoked_at = NULL WHERE key_name = 'payments' AND number = 1"}, "payments"},
		"and its reason with it":       {[]string{"UPDATE versions SET revoked_at = NULL, revoke_reason = '' WHERE key_name = 'payments' AND number = 1"}, "payments"},
		"the seal is taken away":       {[]string{"UPDATE keys SET mac = NULL WHERE name = 'payments'"}, "payments"},
		"a version is deleted":         {[]string{"DELETE FROM versions WHERE key_name = 'payments' AND number = 3"}, "payments"},
		"the first version is deleted": {[]string{"DELETE FROM versions WHERE key_name = 'payments' AND number = 1"}, "payments"},
		"all versions are deleted":     {[]string{"DELETE FROM versions WHERE key_name = 'payments'"}, "payments"},
		"the key's row is deleted":     {[]string{"DELETE FROM keys WHERE name = 'payments'"}, "payments"},
		"a version is added": {[]string{
			"INSERT INTO versions SELECT * FROM versions WHERE false",
			"CREATE TEMP TABLE v AS SELECT * FROM versions WHERE key_name = 'payments' AND number = 3", "UPDATE v SET number = 4, cka_id = randomblob(16)",
			"INSERT INTO versions SELECT * FROM v", "DROP TABLE v",
		}, "payments"},
		"a version is given another's object": {[]string{
			"UPDATE versions SET cka_id = randomblob(16) WHERE key_name = 'other' AND number = 1",
		}, "other"},
		"two versions change their numbers": {[]string{
			"UPDATE versions SET number = 9 WHERE key_name = 'payments' AND number = 1", "UPDATE versions SET number = 1 WHERE key_name = 'payments' AND number = 2",
			"UPDATE versions SET number = 2 WHERE key_name = 'payments' AND number = 9",
		}, "payments"},
		"two keys change their versions": {[]string{
			"UPDATE versions SET key_name = 'x' WHERE key_name = 'payments'", "UPDATE versions SET key_name = 'payments' WHERE key_name = 'other'",
			"UPDATE versions SET key_name = 'other' WHERE key_name = 'x'",
		}, "other payments"},
		"two keys change one version": {[]string{
			"UPDATE versions SET key_name = 'x' WHERE key_name = 'payments' AND number = 1", "UPDATE versions SET key_name = 'payments' WHERE key_name = 'other' AND number = 1",
			"UPDATE versions SET key_name = 'other' WHERE key_name = 'x'",
		}, "other payments"},
		"two keys change their names": {[]string{
			"UPDATE keys SET name = 'x' WHERE name = 'payments'", "UPDATE keys SET name = 'payments' WHERE name = 'other'", "UPDATE keys SET name = 'other' WHERE name = 'x'",
			"UPDATE versions SET key_name = 'x' WHERE key_name = 'payments'", "UPDATE versions SET key_name = 'payments' WHERE key_name = 'other'",
			"UPDATE versions SET key_name = 'other' WHERE key_name = 'x'",
		}, "other payments"},
		"another key's seal":  {[]string{fmt.Sprintf(swapMACs, "keys", "payments", "other")}, "payments"},
		"a weaker policy":     {[]string{`UPDATE keys SET policy = replace(policy, '"period":3600000000000', '"period":0') WHERE name = 'payments'`}, "payments"},
		"no policy":           {[]string{`UPDATE keys SET policy = '{}' WHERE name = 'payments'`}, "payments"},
		"an unknown policy":   {[]string{`UPDATE keys SET policy = replace(policy, '{"period"', '{"backdoor":true,"period"') WHERE name = 'payments'`}, "payments"},
		"JSON behind JSON":    {[]string{`UPDATE keys SET policy = policy || '{}' WHERE name = 'payments'`}, "payments"},
		"an epoch ahead":      {[]string{"UPDATE keys SET epoch = epoch + 1 WHERE name = 'payments'"}, "payments"},
		"an unblocked agent":  {[]string{"UPDATE sealed SET body = '[]'"}, "blocks"},
		"no list of blocks":   {[]string{"DELETE FROM sealed"}, "blocks"},
		"no seal of blocks":   {[]string{"UPDATE sealed SET body = '[]', mac = NULL"}, "blocks"},
		"an approved act":     {[]string{"UPDATE approvals SET state = 'approved', decided_by = 'jwt:corp:bob', decided_at = 1"}, "approval"},
		"another act":         {[]string{"UPDATE approvals SET action = 'delete-key', version = 0"}, "approval"},
		"another requester":   {[]string{"UPDATE approvals SET requested_by = 'x', requested_as = '[\"x\"]'"}, "approval"},
		"a longer approval":   {[]string{"UPDATE approvals SET expires_at = expires_at + 1"}, "approval"},
		"a forged approval":   {[]string{"DELETE FROM approvals", "INSERT INTO approvals SELECT * FROM kept_approvals", "UPDATE approvals SET force = true, mac = (SELECT mac FROM sealed)"}, "approval"},
		"a forced rotation":   {[]string{"UPDATE rotations SET phase = 'scheduled', switch_at = 1, forced_by = 'x'"}, "rotation"},
		"an ended rotation":   {[]string{"UPDATE rotations SET phase = 'completed'"}, "rotation"},
		"a rotation of other": {[]string{"UPDATE rotations SET key_name = 'other'"}, "rotation"},
		"the seal of a rotation for an approval": {[]string{
			"UPDATE approvals SET mac = (SELECT mac FROM rotations)", "UPDATE keys SET mac = (SELECT mac FROM rotations) WHERE name = 'other'",
		}, "approval other"},
	} {
		w.attack(t, what, func(found map[string]bool) {
			var names []string
			for _, name := range []string{"approval", "blocks", "gone", "no gone", "no other", "no payments", "other", "payments", "rotation"} {
				if found[name] {
					names = append(names, name)
				}
			}
			if got := strings.Join(names, " "); got != tt.found {
				t.Errorf("%s: found %q, want %q", what, got, tt.found)
			}
		}, tt.edits...)
	}
}

// TestAnotherToken: whose rows are sealed by another key, nothing is believed.
func TestAnotherToken(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, make func(t *testing.T) *world) {
		w := make(t)
		s, err := w.open([]byte("another key, of another token..."))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		other := &world{Store: s, raw: w.raw, dialect: w.dialect, approval: w.approval}
		if found := other.found(t); len(found) != 6 {
			t.Errorf("found only %v", found)
		}
		if _, err := w.open([]byte("short")); !errors.Is(err, keys.ErrInternal) {
			t.Errorf("a short key: %v", err)
		}
		if found := w.found(t); len(found) != 0 {
			t.Errorf("with the right key, found %v", found)
		}
	})
}
