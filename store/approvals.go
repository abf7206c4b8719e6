package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"unicode/utf8"

	"keyhole/keys"
)

// PutApproval implements Store.
func (d *database) PutApproval(ctx context.Context, a *keys.Approval, from keys.ApprovalState) error {
	if err := checkFilled(a); err != nil {
		return err
	}
	return d.update(ctx, "keeping an approval", func(tx *sql.Tx) error {
		if _, err := d.hold(ctx, tx); err != nil {
			return err
		}
		if from != "" {
			return d.replaceApproval(ctx, tx, a, from)
		}
		found, err := selectAll(ctx, tx, scanApproval, "SELECT "+approvalColumns+" FROM approvals WHERE id = ?", a.ID)
		switch {
		case err != nil:
			return err
		case len(found) > 0:
			return keys.Errorf(keys.ErrConflict, "there is an approval %s already", a.ID)
		case a.State != keys.ApprovalPending:
			return broken("approval %s begins %s", a.ID, a.State)
		}
		return insert(ctx, tx, "approvals", approvalColumns, approvalValues(a, d.seal.Approval(a)), "")
	})
}

// replaceApproval replaces the approval in the state from, "" for any that
// a's state may follow.
func (d *database) replaceApproval(ctx context.Context, tx *sql.Tx, a *keys.Approval, from keys.ApprovalState) error {
	old, err := d.selectApproval(ctx, tx, a.ID)
	if err != nil {
		return err
	}
	if from != "" && old.State != from {
		return decided(old)
	}
	if err := checkApproval(old, a); err != nil {
		return err
	}
	return insert(ctx, tx, "approvals", approvalColumns, approvalValues(a, d.seal.Approval(a)), "id")
}

func decided(a *keys.Approval) error {
	return keys.Errorf(keys.ErrConflict, "approval %s is %s; read it again", a.ID, a.State)
}

// approvalSteps are the states that may follow a state.
var approvalSteps = map[keys.ApprovalState][]keys.ApprovalState{
	keys.ApprovalPending:  {keys.ApprovalApproved, keys.ApprovalRejected},
	keys.ApprovalApproved: {keys.ApprovalDone, keys.ApprovalFailed},
	keys.ApprovalDone:     nil,
	keys.ApprovalFailed:   nil,
	keys.ApprovalRejected: nil,
}

// checkFilled refuses an approval that makes no sense by itself.
func checkFilled(a *keys.Approval) error {
	if _, ok := approvalSteps[a.State]; !ok {
		return broken("approval %s is %q", a.ID, a.State)
	}
	if a.ID == "" || a.Action == "" || a.Key == "" || a.RequestedBy == "" || a.RequestedAt.IsZero() || a.ExpiresAt.IsZero() {
		return broken("approval %q of key %q is not filled in", a.ID, a.Key)
	}
	if undecided := a.State == keys.ApprovalPending; undecided != (a.DecidedBy == "") || undecided != a.DecidedAt.IsZero() {
		return broken("approval %s is %s by %q", a.ID, a.State, a.DecidedBy)
	}
	return checkTexts("approval "+a.ID, slices.Concat([]string{
		a.ID, a.Action, a.Key, a.Note, a.RequestedBy, a.RequestID, a.DecidedBy, a.DecidedNote, a.Error,
	}, a.RequestedAs)...)
}

// checkApproval refuses to let next follow old. An approval serves once: what
// is done, failed or rejected stays so.
func checkApproval(old, next *keys.Approval) error {
	switch {
	case next.Action != old.Action || next.Key != old.Key || next.Version != old.Version || next.Force != old.Force || next.Note != old.Note ||
		next.RequestedBy != old.RequestedBy || !slices.Equal(next.RequestedAs, old.RequestedAs) || next.RequestID != old.RequestID ||
		!sameTime(next.RequestedAt, old.RequestedAt) || !sameTime(next.ExpiresAt, old.ExpiresAt):
		return broken("approval %s would become another one", old.ID)
	case !slices.Contains(approvalSteps[old.State], next.State):
		return decided(old)
	case old.DecidedBy != "" && (next.DecidedBy != old.DecidedBy || !sameTime(next.DecidedAt, old.DecidedAt) || next.DecidedNote != old.DecidedNote):
		return broken("approval %s was decided by %s", old.ID, old.DecidedBy)
	}
	return nil
}

// Approval implements Store.
func (d *database) Approval(ctx context.Context, id string) (a *keys.Approval, err error) {
	err = d.view(ctx, "reading an approval", func(tx *sql.Tx) error {
		a, err = d.selectApproval(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (d *database) selectApproval(ctx context.Context, tx *sql.Tx, id string) (*keys.Approval, error) {
	var found []record[keys.Approval]
	var err error
	if utf8.ValidString(id) {
		found, err = selectAll(ctx, tx, scanApproval, "SELECT "+approvalColumns+" FROM approvals WHERE id = ?", id)
	}
	if err == nil && len(found) == 0 {
		err = keys.Errorf(keys.ErrNotFound, "there is no approval %q here, or you may not see it", clip(id))
	}
	if err != nil {
		return nil, err
	}
	return found[0].of, d.intactApproval(found[0])
}

// Approvals implements Store.
func (d *database) Approvals(ctx context.Context, f ApprovalFilter) (found []*keys.Approval, err error) {
	where, args := []string{"1 = 1"}, []any{}
	if f.Before != "" {
		where, args = append(where, "id < ?"), append(args, f.Before)
	}
	at := f.At.UnixMicro()
	switch f.State {
	case "":
	case keys.ApprovalPending:
		where, args = append(where, "state = 'pending' AND expires_at > ?"), append(args, at)
	case keys.ApprovalExpired:
		where, args = append(where, "state = 'pending' AND expires_at <= ?"), append(args, at)
	default:
		where, args = append(where, "state = ?"), append(args, f.State)
	}
	err = d.view(ctx, "reading approvals", func(tx *sql.Tx) error {
		found, err = selectIntact(ctx, tx, f.Limit, scanApproval, d.intactApproval,
			"SELECT "+approvalColumns+" FROM approvals WHERE "+strings.Join(where, " AND ")+" ORDER BY id DESC", args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
