package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"keyhole/keys"
)

// Key implements Store.
func (d *database) Key(ctx context.Context, name string) (k *keys.Key, err error) {
	err = d.view(ctx, "reading a key", func(tx *sql.Tx) error {
		k, err = selectKey(ctx, tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

func selectKey(ctx context.Context, tx *sql.Tx, name string) (*keys.Key, error) {
	found, err := selectKeys(ctx, tx, "name = ?", name)
	if err == nil && len(found) == 0 {
		// The words are those for a key that the caller may not see.
		err = keys.Errorf(keys.ErrKeyNotFound, "there is no key %q here, or you may not see it", clip(name))
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Load implements Store.
func (d *database) Load(ctx context.Context) (all []*keys.Key, revision uint64, err error) {
	err = d.view(ctx, "loading the keys", func(tx *sql.Tx) error {
		if revision, err = d.revision(ctx, tx); err != nil {
			return err
		}
		all, err = selectKeys(ctx, tx, "1 = 1")
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return all, revision, nil
}

// Changed implements Store.
func (d *database) Changed(ctx context.Context, since uint64) (changed []*keys.Key, deleted []string, revision uint64, err error) {
	err = d.view(ctx, "reading the changes", func(tx *sql.Tx) error {
		if revision, err = d.revision(ctx, tx); err != nil {
			return err
		}
		switch {
		case revision == since:
			return nil
		case revision < since:
			return keys.Errorf(keys.ErrStore, "the store went back from revision %d to %d: an older copy was put in its place; "+
				"see that no revocation is lost by that, then restart the gateway", since, revision)
		}
		if changed, err = selectKeys(ctx, tx, "revision > ?", since); err != nil {
			return err
		}
		deleted, err = selectAll(ctx, tx, func(row scanner) (name string, err error) { return name, row.Scan(&name) },
			"SELECT name FROM deletions WHERE revision > ? ORDER BY name", since)
		return err
	})
	if err != nil {
		return nil, nil, 0, err
	}
	return changed, deleted, revision, nil
}

// selectKeys returns the keys that a condition selects, with their versions,
// in order of their names.
func selectKeys(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]*keys.Key, error) {
	found, err := selectAll(ctx, tx, scanKey, "SELECT "+keyColumns+" FROM keys WHERE "+where+" ORDER BY name", args...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	type versionOf struct {
		key string
		*keys.Version
	}
	versions, err := selectAll(ctx, tx, func(row scanner) (versionOf, error) {
		key, v, err := scanVersion(row)
		return versionOf{key, v}, err
	}, "SELECT "+versionColumns+" FROM versions WHERE key_name IN (SELECT name FROM keys WHERE "+where+") ORDER BY key_name, number", args...)
	if err != nil {
		return nil, err
	}
	for _, k := range found { // both are in order of the names
		for len(versions) > 0 && versions[0].key == k.Name {
			k.Versions = append(k.Versions, versions[0].Version)
			versions = versions[1:]
		}
	}
	if len(versions) > 0 {
		return nil, damaged("version %d belongs to no key %q", versions[0].Number, versions[0].key)
	}
	return found, nil
}

func selectAll[T any](ctx context.Context, tx *sql.Tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		t, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, rows.Err()
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
		r, err = scanRotation(tx.QueryRowContext(ctx, "SELECT "+rotationColumns+" FROM rotations WHERE "+where, id))
		if errors.Is(err, sql.ErrNoRows) {
			return keys.Errorf(keys.ErrNotFound, "there is no rotation %q here, or you may not see it", clip(id))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
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
	query := "SELECT " + rotationColumns + " FROM rotations WHERE " + strings.Join(where, " AND ") + " ORDER BY id DESC"
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	err = d.view(ctx, "reading rotations", func(tx *sql.Tx) error {
		found, err = selectAll(ctx, tx, scanRotation, query, args...)
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
