package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"keyhole/keys"
)

const attemptColumns = "principal, key, fingerprint, request_id, started_at, status, body"

// BeginAttempt implements Store.
func (d *database) BeginAttempt(ctx context.Context, a Attempt) (existing *Attempt, err error) {
	if a.Principal == "" || a.Key == "" || a.StartedAt.IsZero() || a.Status != 0 {
		return nil, broken("an attempt begins with a principal, a key and a time, and without an answer")
	}
	err = d.update(ctx, "beginning an attempt", func(tx *sql.Tx) error {
		if _, err := d.hold(ctx, tx); err != nil {
			return err
		}
		existing = nil
		e := &Attempt{}
		err := tx.QueryRowContext(ctx, "SELECT "+attemptColumns+" FROM attempts WHERE principal = ? AND key = ?", a.Principal, a.Key).
			Scan(&e.Principal, &e.Key, &e.Fingerprint, &e.RequestID, (*stamp)(&e.StartedAt), &e.Status, &e.Body)
		switch {
		case err == nil:
			existing = e
			return nil
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		return insert(ctx, tx, "attempts", attemptColumns,
			[]any{a.Principal, a.Key, a.Fingerprint, a.RequestID, stamp(a.StartedAt), 0, nil}, "")
	})
	if err != nil {
		return nil, err
	}
	return existing, nil
}

// FinishAttempt implements Store.
func (d *database) FinishAttempt(ctx context.Context, principal, key string, status int, body []byte) error {
	if status <= 0 {
		return broken("an answer has the status %d", status)
	}
	return d.update(ctx, "finishing an attempt", func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, "UPDATE attempts SET status = ?, body = ? WHERE principal = ? AND key = ? AND status = 0",
			status, body, principal, key))
		if err != nil || n > 0 {
			return err
		}
		var answered int
		err = tx.QueryRowContext(ctx, "SELECT count(*) FROM attempts WHERE principal = ? AND key = ?", principal, key).Scan(&answered)
		if err == nil && answered == 0 {
			err = keys.Errorf(keys.ErrNotFound, "the attempt was not begun, or has been forgotten meanwhile")
		}
		return err
	})
}

// ForgetAttempt implements Store.
func (d *database) ForgetAttempt(ctx context.Context, principal, key string) error {
	return d.update(ctx, "forgetting an attempt", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM attempts WHERE principal = ? AND key = ?", principal, key)
		return err
	})
}

// ExpireAttempts implements Store.
func (d *database) ExpireAttempts(ctx context.Context, before time.Time) (int, error) {
	var n int64
	err := d.update(ctx, "expiring attempts", func(tx *sql.Tx) (err error) {
		n, err = affected(tx.ExecContext(ctx, "DELETE FROM attempts WHERE started_at < ?", before.UnixMicro()))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
