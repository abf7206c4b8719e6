package store

import (
	"context"
	"database/sql"
	"errors"

	"keyhole/keys"
)

// Subscribe implements Store.
func (d *database) Subscribe(ctx context.Context, s keys.Subscription) (now keys.Subscription, err error) {
	if s.Principal == "" || s.Since.IsZero() {
		return now, broken("the subscription of %q to key %q is not filled in", s.Principal, clip(s.Key))
	}
	err = d.update(ctx, "subscribing", func(tx *sql.Tx) error {
		if _, err := d.hold(ctx, tx); err != nil {
			return err
		}
		if _, err := d.selectKey(ctx, tx, s.Key); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO subscriptions (key_name, principal, since) VALUES (?, ?, ?) ON CONFLICT (key_name, principal) DO NOTHING",
			s.Key, s.Principal, stamp(s.Since))
		if err != nil {
			return err
		}
		now, err = subscription(ctx, tx, s.Key, s.Principal)
		return err
	})
	if err != nil {
		return keys.Subscription{}, err
	}
	return now, nil
}

func subscription(ctx context.Context, tx *sql.Tx, key, principal string) (s keys.Subscription, err error) {
	return s, tx.QueryRowContext(ctx, "SELECT key_name, principal, since FROM subscriptions WHERE key_name = ? AND principal = ?", key, principal).
		Scan(&s.Key, &s.Principal, (*stamp)(&s.Since))
}

// Unsubscribe implements Store.
func (d *database) Unsubscribe(ctx context.Context, key, principal string) error {
	return d.update(ctx, "unsubscribing", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM subscriptions WHERE key_name = ? AND principal = ?", key, principal)
		return err
	})
}

// by adds conditions for the columns whose value is not zero.
func by(where string, args []any, column string, value any, zero bool) (string, []any) {
	if zero {
		return where, args
	}
	return where + " AND " + column + " = ?", append(args, value)
}

// Subscriptions implements Store.
func (d *database) Subscriptions(ctx context.Context, key, principal string) (found []keys.Subscription, err error) {
	where, args := by("1 = 1", nil, "key_name", key, key == "")
	where, args = by(where, args, "principal", principal, principal == "")
	err = d.view(ctx, "reading subscriptions", func(tx *sql.Tx) error {
		found, err = selectAll(ctx, tx, func(rows *sql.Rows) (s keys.Subscription, err error) {
			return s, rows.Scan(&s.Key, &s.Principal, (*stamp)(&s.Since))
		}, "SELECT key_name, principal, since FROM subscriptions WHERE "+where+" ORDER BY key_name, principal", args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

const ackColumns = "key_name, version, principal, at"

// Acknowledge implements Store.
func (d *database) Acknowledge(ctx context.Context, a keys.Ack) (now keys.Ack, err error) {
	if a.Principal == "" || a.At.IsZero() {
		return now, broken("the acknowledgement of %q for key %q is not filled in", a.Principal, clip(a.Key))
	}
	err = d.update(ctx, "acknowledging", func(tx *sql.Tx) error {
		if _, err := d.hold(ctx, tx); err != nil {
			return err
		}
		k, err := d.selectKey(ctx, tx, a.Key)
		if err != nil {
			return err
		}
		v, err := k.Version(a.Version)
		if err != nil {
			return err
		}
		if v.CreatedAt.IsZero() {
			return keys.Errorf(keys.ErrVersionNotFound, "version %s is not generated yet; acknowledge it when it is announced", k.ID(v))
		}
		if _, err := subscription(ctx, tx, a.Key, a.Principal); errors.Is(err, sql.ErrNoRows) {
			return keys.Errorf(keys.ErrNotSubscribed, "you are not subscribed to key %q: subscribe first, so that your acknowledgements count", a.Key)
		} else if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO acks ("+ackColumns+") VALUES (?, ?, ?, ?) ON CONFLICT (key_name, version, principal) DO NOTHING",
			a.Key, a.Version, a.Principal, stamp(a.At))
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, "SELECT "+ackColumns+" FROM acks WHERE key_name = ? AND version = ? AND principal = ?", a.Key, a.Version, a.Principal).
			Scan(&now.Key, &now.Version, &now.Principal, (*stamp)(&now.At))
	})
	if err != nil {
		return keys.Ack{}, err
	}
	return now, nil
}

// Acks implements Store.
func (d *database) Acks(ctx context.Context, key string, version uint32, principal string) (found []keys.Ack, err error) {
	where, args := by("1 = 1", nil, "key_name", key, key == "")
	where, args = by(where, args, "version", version, version == 0)
	where, args = by(where, args, "principal", principal, principal == "")
	err = d.view(ctx, "reading acknowledgements", func(tx *sql.Tx) error {
		found, err = selectAll(ctx, tx, func(rows *sql.Rows) (a keys.Ack, err error) {
			return a, rows.Scan(&a.Key, &a.Version, &a.Principal, (*stamp)(&a.At))
		}, "SELECT "+ackColumns+" FROM acks WHERE "+where+" ORDER BY key_name, version DESC, principal", args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
