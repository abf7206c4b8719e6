package store

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"keyhole/keys"
)

// Key implements Store.
func (d *database) Key(ctx context.Context, name string) (k *keys.Key, err error) {
	err = d.view(ctx, "reading a key", func(tx *sql.Tx) error {
		k, err = d.selectKey(ctx, tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Readable implements Store.
func (d *database) Readable(ctx context.Context, name string) (k *keys.Key, err error) {
	err = d.view(ctx, "reading a key", func(tx *sql.Tx) error {
		r, err := d.selectRecord(ctx, tx, name)
		k = r.of
		if err == nil {
			k.Damaged = d.intactKey(r) != nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// selectKey returns a key whose seal is right.
func (d *database) selectKey(ctx context.Context, tx *sql.Tx, name string) (*keys.Key, error) {
	r, err := d.selectRecord(ctx, tx, name)
	if err == nil {
		err = d.intactKey(r)
	}
	if err != nil {
		return nil, err
	}
	return r.of, nil
}

func (d *database) selectRecord(ctx context.Context, tx *sql.Tx, name string) (record[keys.Key], error) {
	var found []record[keys.Key]
	var err error
	if utf8.ValidString(name) { // nothing else is ever kept
		found, err = selectKeys(ctx, tx, "name = ?", "key_name = ?", name)
	}
	if err == nil && len(found) == 0 {
		// The words are those for a key that the caller may not see.
		err = keys.Errorf(keys.ErrKeyNotFound, "there is no key %q here, or you may not see it", clip(name))
	}
	if err != nil {
		return record[keys.Key]{}, err
	}
	return found[0], nil
}

// Load implements Store.
func (d *database) Load(ctx context.Context) (all []*keys.Key, revision uint64, err error) {
	err = d.view(ctx, "loading the keys", func(tx *sql.Tx) error {
		if revision, err = d.revision(ctx, tx); err != nil {
			return err
		}
		found, err := selectKeys(ctx, tx, "1 = 1", "1 = 1")
		all = d.checked(found)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return all, revision, nil
}

// checked puts a Damaged key in the place of each one whose seal is wrong.
func (d *database) checked(found []record[keys.Key]) []*keys.Key {
	all := make([]*keys.Key, len(found))
	for i, r := range found {
		if all[i] = r.of; d.intactKey(r) != nil {
			all[i] = &keys.Key{Name: r.of.Name, Damaged: true}
		}
	}
	return all
}

// Changed implements Store.
func (d *database) Changed(ctx context.Context, since uint64) (changed []*keys.Key, deleted []string, revision uint64, err error) {
	err = d.view(ctx, "reading the changes", func(tx *sql.Tx) error {
		if revision, err = d.revision(ctx, tx); err != nil {
			return err
		}
		changed, deleted = nil, nil
		switch {
		case revision == since:
			return nil
		case revision < since:
			return keys.Errorf(keys.ErrStore, "the store went back from revision %d to %d: an older copy was put in its place; "+
				"see that no revocation is lost by that, then restart the gateway", since, revision)
		}
		found, err := selectKeys(ctx, tx, "revision > ?", "key_name IN (SELECT name FROM keys WHERE revision > ?)", since)
		if err != nil {
			return err
		}
		changed = d.checked(found)
		deleted, err = selectAll(ctx, tx, func(rows *sql.Rows) (name string, err error) { return name, rows.Scan(&name) },
			"SELECT name FROM deletions WHERE revision > ? ORDER BY name", since)
		return err
	})
	if err != nil {
		return nil, nil, 0, err
	}
	return changed, deleted, revision, nil
}

// selectKeys returns the keys that a condition selects, with their versions,
// in order of their names. The conditions are those for the two tables.
// Versions without a key make a broken one.
func selectKeys(ctx context.Context, tx *sql.Tx, ofKeys, ofVersions string, args ...any) ([]record[keys.Key], error) {
	found, err := selectAll(ctx, tx, scanKey, "SELECT "+keyColumns+" FROM keys WHERE "+ofKeys+" ORDER BY name", args...)
	if err != nil {
		return nil, err
	}
	versions, err := selectAll(ctx, tx, scanVersion, "SELECT "+versionColumns+" FROM versions WHERE "+ofVersions+" ORDER BY key_name, number", args...)
	if err != nil {
		return nil, err
	}
	i := 0
	for _, v := range versions { // both are in order of the names
		for i < len(found) && found[i].of.Name < v.key {
			i++
		}
		if i == len(found) || found[i].of.Name != v.key {
			found = slices.Insert(found, i, record[keys.Key]{of: &keys.Key{Name: v.key}, broken: true})
		}
		found[i].of.Versions = append(found[i].of.Versions, v.of)
		found[i].broken = found[i].broken || v.broken
	}
	return found, nil
}

func selectAll[T any](ctx context.Context, tx *sql.Tx, scan func(*sql.Rows) (T, error), query string, args ...any) (all []T, err error) {
	err = each(ctx, tx, func(rows *sql.Rows) (bool, error) {
		t, err := scan(rows)
		all = append(all, t)
		return true, err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// selectIntact returns the first rows of a query, limit at most (0: all),
// without those that check refuses.
func selectIntact[T any](ctx context.Context, tx *sql.Tx, limit int, scan func(*sql.Rows) (record[T], error), check func(record[T]) error,
	query string, args ...any,
) (all []*T, err error) {
	err = each(ctx, tx, func(rows *sql.Rows) (bool, error) {
		r, err := scan(rows)
		if err == nil && check(r) == nil {
			all = append(all, r.of)
		}
		return limit <= 0 || len(all) < limit, err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// noLimit is a limit that no number of rows comes to.
const noLimit = math.MaxInt

// each calls f for the rows of a query, until f says that it is enough.
func each(ctx context.Context, tx *sql.Tx, f func(*sql.Rows) (more bool, err error), query string, args ...any) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if more, err := f(rows); err != nil || !more {
			return err
		}
	}
	return rows.Err()
}

// Rotation implements Store.
func (d *database) Rotation(ctx context.Context, id string) (*keys.Rotation, error) {
	return d.oneRotation(ctx, id, "id = ?")
}

// RotationByRequest implements Store.
func (d *database) RotationByRequest(ctx context.Context, requestID string) (*keys.Rotation, error) {
	return d.oneRotation(ctx, requestID, "request_id = ? AND request_id <> '' ORDER BY id DESC LIMIT 1")
}

func (d *database) oneRotation(ctx context.Context, id, where string) (r *keys.Rotation, err error) {
	err = d.view(ctx, "reading a rotation", func(tx *sql.Tx) error {
		r = nil
		if utf8.ValidString(id) {
			r, err = d.selectRotation(ctx, tx, where, id)
		}
		if err == nil && r == nil {
			err = keys.Errorf(keys.ErrNotFound, "there is no rotation %q here, or you may not see it", clip(id))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// selectRotation returns the rotation that a condition selects, nil if there
// is none.
func (d *database) selectRotation(ctx context.Context, tx *sql.Tx, where string, args ...any) (*keys.Rotation, error) {
	found, err := selectAll(ctx, tx, scanRotation, "SELECT "+rotationColumns+" FROM rotations WHERE "+where, args...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0].of, d.intactRotation(found[0])
}

// openRotation is the condition of the index that allows a key one.
const openRotation = "phase NOT IN ('completed', 'aborted')"

// Rotations implements Store.
func (d *database) Rotations(ctx context.Context, f RotationFilter) (found []*keys.Rotation, err error) {
	where, args := []string{"1 = 1"}, []any{}
	if f.Key != "" {
		where, args = append(where, "key_name = ?"), append(args, f.Key)
	}
	if f.Before != "" {
		where, args = append(where, "id < ?"), append(args, f.Before)
	}
	if f.OpenOnly {
		where = append(where, openRotation)
	}
	err = d.view(ctx, "reading rotations", func(tx *sql.Tx) error {
		found, err = selectIntact(ctx, tx, f.Limit, scanRotation, d.intactRotation,
			"SELECT "+rotationColumns+" FROM rotations WHERE "+strings.Join(where, " AND ")+" ORDER BY id DESC", args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// clip bounds a caller's own text before it is shown back.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
