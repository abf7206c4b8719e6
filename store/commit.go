package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"keyhole/keys"
)

// Commit implements Store.
func (d *database) Commit(ctx context.Context, c Change) error {
	if err := checkChange(c); err != nil {
		return err
	}
	return d.update(ctx, "committing a change", func(tx *sql.Tx) error {
		revision, err := d.nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		switch {
		case c.Key == nil:
		case c.FromEpoch == 0:
			err = d.createKey(ctx, tx, c.Key, revision)
		case c.Delete:
			err = d.deleteKey(ctx, tx, c, revision)
		default:
			err = d.changeKey(ctx, tx, c, revision)
		}
		if err == nil && c.Rotation != nil {
			err = d.putRotation(ctx, tx, c.Rotation, c.Delete)
		}
		if err == nil && c.Delete {
			err = d.noOpenRotation(ctx, tx, c.Key.Name, "")
		}
		if err == nil && c.Approval != nil {
			err = d.replaceApproval(ctx, tx, c.Approval, "")
		}
		if err == nil && len(c.Notices) > 0 {
			err = appendNotices(ctx, tx, c.Notices)
		}
		return err
	})
}

func (d *database) createKey(ctx context.Context, tx *sql.Tx, k *keys.Key, revision uint64) error {
	switch _, err := d.selectKey(ctx, tx, k.Name); {
	case err == nil:
		return keys.Errorf(keys.ErrKeyExists, "there is a key %q already", k.Name)
	case !errors.Is(err, keys.ErrKeyNotFound):
		return err
	}
	return d.insertKey(ctx, tx, k, revision)
}

// insertKey inserts a key that is not there.
func (d *database) insertKey(ctx context.Context, tx *sql.Tx, k *keys.Key, revision uint64) error {
	var last uint32
	switch err := tx.QueryRowContext(ctx, "SELECT last_version FROM tombstones WHERE name = ?", k.Name).Scan(&last); {
	case err == nil:
		return keys.Errorf(keys.ErrKeyRetired, "a deleted key had the name %q and used the versions up to %d; choose another name", k.Name, last)
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	if err := checkNew(k); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM deletions WHERE name = ?", k.Name); err != nil {
		return err
	}
	if err := insert(ctx, tx, "keys", keyColumns, keyValues(k, revision, d.seal.Key(k, revision)), ""); err != nil {
		return err
	}
	return putVersions(ctx, tx, &keys.Key{}, k)
}

// stored returns the key that c is about, if it is at the epoch that c
// starts from.
func (d *database) stored(ctx context.Context, tx *sql.Tx, c Change) (*keys.Key, error) {
	old, err := d.selectKey(ctx, tx, c.Key.Name)
	if err == nil && old.Epoch != c.FromEpoch {
		err = keys.Errorf(keys.ErrConflict, "key %q is at epoch %d, not %d; read it again", old.Name, old.Epoch, c.FromEpoch)
	}
	return old, err
}

func (d *database) changeKey(ctx context.Context, tx *sql.Tx, c Change, revision uint64) error {
	old, err := d.stored(ctx, tx, c)
	if err != nil {
		return err
	}
	if err := checkNext(old, c.Key); err != nil {
		return err
	}
	set := strings.ReplaceAll(keyColumns, ",", " = ?,") + " = ?"
	values := append(keyValues(c.Key, revision, d.seal.Key(c.Key, revision)), old.Name)
	if _, err := tx.ExecContext(ctx, "UPDATE keys SET "+set+" WHERE name = ?", values...); err != nil { //nolint:gosec // joined from constants
		return err
	}
	return putVersions(ctx, tx, old, c.Key)
}

// putVersions writes the versions in which next differs from old.
func putVersions(ctx context.Context, tx *sql.Tx, old, next *keys.Key) error {
	for i, v := range next.Versions {
		if i < len(old.Versions) && sameVersion(old.Versions[i], v) {
			continue
		}
		err := insert(ctx, tx, "versions", versionColumns, versionValues(next.Name, v), "key_name, number")
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *database) deleteKey(ctx context.Context, tx *sql.Tx, c Change, revision uint64) error {
	old, err := d.stored(ctx, tx, c)
	if err != nil {
		return err
	}
	retired, err := checkDelete(old)
	if err != nil {
		return err
	}
	if retired {
		if err := insert(ctx, tx, "tombstones", "name, last_version, revision", []any{old.Name, old.Latest().Number, revision}, ""); err != nil {
			return err
		}
	}
	for _, table := range []string{"subscriptions", "acks", "usage"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE key_name = ?", old.Name); err != nil { //nolint:gosec // one of three
			return err
		}
	}
	if err := removeKey(ctx, tx, old.Name); err != nil {
		return err
	}
	return insert(ctx, tx, "deletions", "name, revision", []any{old.Name, revision}, "name")
}

// removeKey removes a key's rows.
func removeKey(ctx context.Context, tx *sql.Tx, name string) error {
	for _, query := range []string{"DELETE FROM versions WHERE key_name = ?", "DELETE FROM keys WHERE name = ?"} {
		if _, err := tx.ExecContext(ctx, query, name); err != nil {
			return err
		}
	}
	return nil
}

// putRotation inserts or replaces a rotation. Its key may be gone only by
// the same change.
func (d *database) putRotation(ctx context.Context, tx *sql.Tx, r *keys.Rotation, deleting bool) error {
	old, err := d.selectRotation(ctx, tx, "id = ?", r.ID)
	switch {
	case err != nil:
	case old != nil:
		err = checkRotation(old, r)
	case !deleting:
		_, err = d.selectKey(ctx, tx, r.Key)
	}
	if err != nil {
		return err
	}
	if !r.Phase.Done() {
		if err := d.noOpenRotation(ctx, tx, r.Key, r.ID); err != nil {
			return err
		}
	}
	return insert(ctx, tx, "rotations", rotationColumns, rotationValues(r, d.seal.Rotation(r)), "id")
}

// noOpenRotation refuses if a rotation of the key, other than id, is open.
// One that was altered is in nobody's way: its row is put to its end and
// stays what it is, altered.
func (d *database) noOpenRotation(ctx context.Context, tx *sql.Tx, key, id string) error {
	running, err := d.selectRotation(ctx, tx, "key_name = ? AND id <> ? AND "+openRotation, key, id)
	switch {
	case errors.Is(err, keys.ErrTampered):
		_, err = tx.ExecContext(ctx, "UPDATE rotations SET phase = 'aborted', mac = NULL WHERE key_name = ? AND id <> ? AND "+openRotation, key, id)
	case err == nil && running != nil:
		err = keys.Errorf(keys.ErrRotationRunning, "rotation %s of key %q is running; wait for its end", running.ID, key)
	}
	return err
}

// insert writes a row. One with the same values in the conflict columns is
// replaced; "" means that there can be none.
func insert(ctx context.Context, tx *sql.Tx, table, columns string, values []any, conflict string) error {
	query := "INSERT INTO " + table + " (" + columns + ") VALUES (?" + strings.Repeat(", ?", len(values)-1) + ")" //nolint:gosec // joined from constants
	if conflict != "" {
		names := strings.FieldsFunc(columns, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
		for i, name := range names {
			names[i] = name + " = excluded." + name
		}
		query += " ON CONFLICT (" + conflict + ") DO UPDATE SET " + strings.Join(names, ", ")
	}
	_, err := tx.ExecContext(ctx, query, values...)
	return err
}

// insertAll writes rows, no two of which meet in what the end of the query
// says of conflicts, in few statements: each is a way to the database and
// back. There are few forms of the query, so that it is prepared once.
func insertAll(ctx context.Context, tx *sql.Tx, begin string, rows [][]any, end string) error {
	for len(rows) > 0 {
		n := 1
		for _, many := range []int{256, 16} {
			if len(rows) >= many {
				n = many
				break
			}
		}
		one := "(?" + strings.Repeat(", ?", len(rows[0])-1) + ")"
		if _, err := tx.ExecContext(ctx, begin+one+strings.Repeat(", "+one, n-1)+end, slices.Concat(rows[:n]...)...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
