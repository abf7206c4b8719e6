package store

import (
	"context"
	"database/sql"
	"errors"

	"keyhole/keys"
)

// Adopt implements Store.
func (d *database) Adopt(ctx context.Context, k *keys.Key) error {
	c := k.Clone()
	c.Epoch = 1
	if err := checkChange(Change{Key: c}); err != nil {
		return err
	}
	return d.update(ctx, "adopting a key", func(tx *sql.Tx) error {
		// Each epoch of each key cost a revision: no key was ever ahead of it.
		revision, err := d.nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		c.Epoch = revision
		switch r, err := d.selectRecord(ctx, tx, k.Name); {
		case err == nil && d.intactKey(r) == nil:
			return keys.Errorf(keys.ErrKeyExists, "key %q is there and is what Keyhole stored; it is left alone", k.Name)
		case err == nil && !r.broken && r.of.Epoch < maxID:
			c.Epoch = max(c.Epoch, r.of.Epoch+1)
		case err != nil && !errors.Is(err, keys.ErrKeyNotFound):
			return err
		}
		if err := removeKey(ctx, tx, k.Name); err != nil {
			return err
		}
		if err := d.freeObjects(ctx, tx, c); err != nil {
			return err
		}
		if err := d.endRotation(ctx, tx, k.Name); err != nil {
			return err
		}
		return d.insertKey(ctx, tx, c, revision)
	})
}

// freeObjects takes the CKA_IDs of k from the rows of damaged keys, whom they
// may not belong to.
func (d *database) freeObjects(ctx context.Context, tx *sql.Tx, k *keys.Key) error {
	for _, v := range k.Versions {
		var owner string
		err := tx.QueryRowContext(ctx, "SELECT key_name FROM versions WHERE cka_id = ?", v.ObjectID[:]).Scan(&owner)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		switch _, err := d.selectKey(ctx, tx, owner); {
		case err == nil:
			return keys.Errorf(keys.ErrKeyExists, "the objects of version %s belong to key %q", k.ID(v), owner)
		case !errors.Is(err, keys.ErrTampered):
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM versions WHERE cka_id = ?", v.ObjectID[:]); err != nil {
			return err
		}
	}
	return nil
}

// endRotation aborts the open rotation of a key: its version may not be what
// it was.
func (d *database) endRotation(ctx context.Context, tx *sql.Tx, key string) error {
	open, err := d.selectRotation(ctx, tx, "key_name = ? AND "+openRotation, key)
	switch {
	case errors.Is(err, keys.ErrTampered):
		return d.noOpenRotation(ctx, tx, key, "")
	case err != nil || open == nil:
		return err
	}
	open.Phase, open.Error = keys.PhaseAborted, "the key was rebuilt by keyholed adopt"
	return insert(ctx, tx, "rotations", rotationColumns, rotationValues(open, d.seal.Rotation(open)), "id")
}
