package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// Report is what Reconcile found and did.
type Report struct {
	DryRun   bool
	Objects  int // on the tokens, of Keyhole
	Foreign  int // on the tokens, of others: never touched
	Versions int // in the store
	Findings []Finding
}

// Finding is one difference between the tokens and the store.
type Finding struct {
	Kind   FindingKind
	Token  string
	Label  string
	CKAID  string // hexadecimal
	Key    string
	Text   string // for people: what it is and what to do
	Action FindingAction
}

// FindingKind says what is wrong.
type FindingKind string

// The kinds.
const (
	FindingOrphan         FindingKind = "orphan"          // an object labelled like a version that the store does not know
	FindingMissing        FindingKind = "missing"         // a version without its object
	FindingHalfPair       FindingKind = "half-pair"       // one half of a pair is not there
	FindingDuplicate      FindingKind = "duplicate"       // several objects of one class have a version's label or CKA_ID
	FindingMismatch       FindingKind = "mismatch"        // the object is not the key that the store describes
	FindingNotDestroyed   FindingKind = "not-destroyed"   // the object of a version that is destroyed, or of a try to make one
	FindingRevocationLost FindingKind = "revocation-lost" // the token says that a version is compromised, the store did not
	FindingDamaged        FindingKind = "damaged"         // the store's rows of a key are not what Keyhole wrote
)

// FindingAction says what was done about it.
type FindingAction string

// The actions.
const (
	FindingReported    FindingAction = "none"
	FindingRepaired    FindingAction = "repaired"
	FindingWouldRepair FindingAction = "would-repair" // a dry run repairs nothing
	FindingFailed      FindingAction = "failed"       // it will be tried again
)

// reconciling is the engine's own state of reconciliation.
type reconciling struct {
	mu   sync.Mutex
	last time.Time // when the engine began one by itself
}

// Reconcile compares the tokens with the store and repairs what can be
// repaired without doubt: lost revocations are applied again, and objects of
// versions that are destroyed, or that were never finished, are destroyed.
// Everything else is reported and left alone. Each repair is recorded, with
// an intent before it. A dry run repairs nothing.
//
// What goes on meanwhile is no difference: the store is read after the
// token, a difference counts when a second look has shown it too, and before
// a repair the store is asked once more.
//
// Errors: keys.ErrConflict (another one is running), keys.ErrHSM and others
// of a token that could not be read (the report is of the rest then),
// ErrStore.
func (e *Engine) Reconcile(ctx context.Context, actor Actor, dryRun bool) (Report, error) {
	return e.reconcile(ctx, actor, reconcileSpec{dryRun: dryRun})
}

// ReconcileAll is Reconcile, and moreover uses the key of every version once,
// which takes a while: it shows those that are not what the store says of
// them. progress is told after each.
func (e *Engine) ReconcileAll(ctx context.Context, actor Actor, dryRun bool, progress func(done, of int)) (Report, error) {
	return e.reconcile(ctx, actor, reconcileSpec{dryRun: dryRun, use: true, progress: progress})
}

type reconcileSpec struct {
	dryRun   bool
	use      bool
	progress func(done, of int)
}

// reconcileTimeout bounds a comparison, so that a token that hangs does not
// keep later ones from being tried. Listing 10,000 objects takes seconds.
const reconcileTimeout = 10 * time.Minute

func (e *Engine) reconcile(ctx context.Context, actor Actor, s reconcileSpec) (Report, error) {
	ctx, done, err := e.leases.Try(ctx, leaseReconcile)
	if errors.Is(err, lease.ErrTaken) {
		return Report{}, keys.Errorf(keys.ErrConflict, "tokens and store are being compared already; try again when that has ended")
	}
	if err != nil {
		return Report{}, err
	}
	defer done()
	if !s.use {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, reconcileTimeout)
		defer cancel()
	}
	r := Report{DryRun: s.dryRun}
	var failed error
	for _, token := range e.token.Tokens() {
		seen, differences, err := e.compare(ctx, token, &r)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("comparing the token %q with the store: %w", token, err))
			continue
		}
		for _, d := range differences {
			r.Findings = append(r.Findings, e.settle(ctx, actor, s.dryRun, d))
		}
		if !s.dryRun {
			failed = errors.Join(failed, e.markAgain(ctx, seen))
		}
	}
	all, err := e.snapshot(ctx)
	if err != nil {
		return r, errors.Join(failed, err)
	}
	r.Findings = append(r.Findings, e.unusable(all)...)
	if s.use {
		used, err := e.useAll(ctx, all, r.Findings, s.progress)
		r.Findings, failed = append(r.Findings, used...), errors.Join(failed, err)
	}
	for _, f := range r.Findings {
		level := slog.LevelError
		if f.Action == FindingRepaired {
			level = slog.LevelWarn
		}
		e.log.Log(ctx, level, "tokens and store differ", "kind", f.Kind, "action", f.Action, "key", f.Key, "label", f.Label, "cka_id", f.CKAID, "token", f.Token, "text", f.Text)
	}
	return r, failed
}

// compare looks at a token and the store, and again if they differ: what
// both looks have shown is no act under way.
func (e *Engine) compare(ctx context.Context, token string, r *Report) (view, []difference, error) {
	v, err := e.look(ctx, token)
	if err != nil {
		return v, nil, err
	}
	differences, objects, foreign, versions := v.compare()
	if len(differences) > 0 {
		if v, err = e.look(ctx, token); err != nil {
			return v, nil, err
		}
		var again []difference
		again, objects, foreign, versions = v.compare()
		differences = slices.DeleteFunc(again, func(d difference) bool { return !slices.ContainsFunc(differences, d.same) })
	}
	r.Objects, r.Foreign, r.Versions = r.Objects+objects, r.Foreign+foreign, r.Versions+versions
	return v, differences, nil
}

// look reads a token and then the store, so that what is made meanwhile has
// its row. Of the store it reads the rotations last but for the keys: a
// version whose rotation has ended by then is shown as it was left.
func (e *Engine) look(ctx context.Context, token string) (view, error) {
	v := view{token: token, open: map[keys.VersionID]bool{}}
	var err error
	if v.objects, err = e.token.List(ctx, token); err != nil {
		return view{}, err
	}
	if v.marks, err = e.token.Revoked(ctx, token); err != nil {
		return view{}, err
	}
	open, err := e.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil {
		return view{}, err
	}
	for _, r := range open {
		v.open[keys.VersionID{Key: r.Key, Number: r.To}] = true
	}
	v.keys, err = e.snapshot(ctx)
	return v, err
}

// snapshot returns all keys as of now.
func (e *Engine) snapshot(ctx context.Context) ([]*keys.Key, error) {
	if err := e.refresh(ctx); err != nil {
		return nil, err
	}
	return e.keys()
}

// unusable are the keys that can be compared with no token.
func (e *Engine) unusable(all []*keys.Key) (found []Finding) {
	for _, k := range all {
		switch {
		case k.Damaged:
			found = append(found, Finding{Kind: FindingDamaged, Key: k.Name, Token: k.Token, Action: FindingReported, Text: fmt.Sprintf(
				"the rows of key %q are not what Keyhole wrote: nothing is done with it. Bring back a copy of the database from before, or stop the gateway and have `keyholed adopt` build them anew from the token", k.Name)})
		case !e.token.HasToken(k.Token):
			found = append(found, Finding{Kind: FindingMissing, Key: k.Name, Token: k.Token, Action: FindingReported, Text: fmt.Sprintf(
				"key %q is on the token %q, which is not configured: it cannot be used", k.Name, k.Token)})
		}
	}
	return found
}

// useAll uses the key of every version that nothing was found about yet.
func (e *Engine) useAll(ctx context.Context, all []*keys.Key, found []Finding, progress func(done, of int)) (more []Finding, err error) {
	told := map[string]bool{}
	for _, f := range found {
		told[f.Label] = true
	}
	var refs []keys.Ref
	var names []string
	for _, k := range all {
		for _, v := range k.Versions {
			if ref := k.Ref(v); !k.Damaged && e.token.HasToken(k.Token) && !v.CreatedAt.IsZero() && v.DestroyedAt.IsZero() && !told[ref.Label] {
				refs, names = append(refs, ref), append(names, k.Name)
			}
		}
	}
	for i, ref := range refs {
		_, ierr := e.token.Inspect(ctx, ref)
		f := Finding{Token: ref.Token, Label: ref.Label, CKAID: ref.ID.String(), Key: names[i], Action: FindingReported}
		switch {
		case errors.Is(ierr, keys.ErrNotFound):
			f.Kind, f.Text = FindingMissing, publicText(ierr)
			more = append(more, f)
		case errors.Is(ierr, keys.ErrInvalid), errors.Is(ierr, keys.ErrUnsupported):
			f.Kind, f.Text = FindingMismatch, publicText(ierr)
			more = append(more, f)
		case ierr != nil:
			return more, fmt.Errorf("using the key of %s: %w", ref.Label, ierr)
		}
		if progress != nil {
			progress(i+1, len(refs))
		}
	}
	return more, nil
}
