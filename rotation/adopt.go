package rotation

import (
	"context"
	"errors"
	"fmt"

	"keyhole/keys"
	"keyhole/store"
)

// AdoptStore is what Adopt needs of a store beyond Store; see store.Store.
type AdoptStore interface {
	Adopt(ctx context.Context, k *keys.Key) error
	Readable(ctx context.Context, name string) (*keys.Key, error)
}

// AdoptSpec says what Adopt may do, and what no token tells.
type AdoptSpec struct {
	DryRun  bool
	Imports []Import
	// Algorithms has the algorithm of a key, by its name, or of one version,
	// by its id. It is needed where an object fits several: RSA keys do not
	// tell whether they sign by RS256 or PS256.
	Algorithms map[string]keys.Algorithm
	// Recorded returns the algorithm that a version was made for, by its
	// CKA_ID, from elsewhere; "": not known. Algorithms goes before it.
	Recorded func(id keys.ObjectID) keys.Algorithm
	// Highest returns the highest number that a version of a key is known to
	// have had; numbers up to it do not come again.
	Highest func(key string) uint32
	// Skip are versions to leave out. Their numbers do not come again.
	Skip []keys.VersionID
	// Unprotected takes keys that can leave the token, or could have before.
	Unprotected bool
}

// Import takes in a key that another tool made.
type Import struct {
	Label     string         // CKA_LABEL of its objects
	Token     string         // "": wherever it is, once
	Key       string         // the key that it becomes a version of
	Number    uint32         // 0: the next one
	Algorithm keys.Algorithm // "": the only one that it fits
}

// Adoption is what Adopt found and did.
type Adoption struct {
	DryRun  bool
	Keys    []AdoptedKey // in order of their names
	Foreign int          // key objects that are not Keyhole's and were not asked for
}

// Refused counts the keys that were not adopted and should have been.
func (a Adoption) Refused() (n int) {
	for _, k := range a.Keys {
		if k.Action == AdoptRefused || k.Action == AdoptFailed {
			n++
		}
	}
	return n
}

// AdoptAction is what was done about a key.
type AdoptAction string

// The actions.
const (
	AdoptKept    AdoptAction = "kept"    // its rows are there and good
	AdoptWould   AdoptAction = "would"   // a dry run does nothing
	AdoptDone    AdoptAction = "adopted" // its rows are there now
	AdoptRefused AdoptAction = "refused" // see Text
	AdoptFailed  AdoptAction = "failed"  // see Text
)

// AdoptedKey is one key.
type AdoptedKey struct {
	Name      string
	Token     string
	Action    AdoptAction
	Text      string           // for people: what it rests on, or why not and what to do
	Fix       []string         // commands that mend it, with MODULE and TOKEN for the path of the module and the token's label
	Versions  []AdoptedVersion // that it has or gets, ascending
	Algorithm keys.Algorithm
}

// AdoptedVersion is one version.
type AdoptedVersion struct {
	ID        keys.VersionID
	Label     string
	ObjectID  keys.ObjectID
	Algorithm keys.Algorithm
	Bits      int
	State     keys.State
	Protected bool // it never could leave the token
	New       bool // it gets a row
}

// Adopt rebuilds the rows of keys from the objects on the tokens, where the
// store does not know them or their rows were altered, and takes in keys that
// other tools made. It changes nothing on a token.
//
// The versions of a key are those whose objects are labelled so. The highest
// one that is not marked as compromised is active from now on, those below it
// verify and decrypt. The token does not tell policies, descriptions and tags,
// nor what was suspended, archived or to be destroyed: an adopted key has
// none of it. To a key whose rows are good, versions above its highest one
// are added: the store is an older copy then.
//
// Every key is adopted whole or not at all, and each object is read and used
// once before. It may be repeated: what is done stays as it is. Each key has
// its intent and outcome in the audit log. Errors are about the tokens and
// the store; what is wrong with one key is in its AdoptedKey.
func (e *Engine) Adopt(ctx context.Context, actor Actor, into AdoptStore, s AdoptSpec) (Adoption, error) {
	a := Adoption{DryRun: s.DryRun}
	in, err := e.inventory(ctx)
	if err != nil {
		return a, err
	}
	plans, foreign := in.plan(s)
	a.Foreign = foreign
	for _, p := range plans {
		done, err := e.adoptKey(ctx, actor, into, s, p)
		if err != nil {
			return a, err
		}
		a.Keys = append(a.Keys, done)
	}
	return a, nil
}

// inventory is everything on the tokens and in the store.
func (e *Engine) inventory(ctx context.Context) (inventory, error) {
	in := inventory{known: map[string]*keys.Key{}, open: map[string]bool{}, capable: e.token.Capable, now: e.clock()}
	for _, token := range e.token.Tokens() {
		objects, err := e.token.List(ctx, token)
		if err != nil {
			return in, fmt.Errorf("listing the token %q: %w", token, err)
		}
		marks, err := e.token.Revoked(ctx, token)
		if err != nil {
			return in, fmt.Errorf("reading the marks of revocations on the token %q: %w", token, err)
		}
		in.objects, in.marks = append(in.objects, objects...), append(in.marks, marks...)
	}
	all, err := e.snapshot(ctx)
	if err != nil {
		return in, err
	}
	for _, k := range all {
		in.known[k.Name] = k
	}
	open, err := e.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	for _, r := range open {
		in.open[r.Key] = true
	}
	return in, err
}

// adoptKey carries a plan out.
func (e *Engine) adoptKey(ctx context.Context, actor Actor, into AdoptStore, s AdoptSpec, p *adoptPlan) (AdoptedKey, error) {
	if p.refusal != "" || len(p.fresh) == 0 {
		return p.report(), nil
	}
	if err := e.inspectAll(ctx, s, p); err != nil || p.refusal != "" {
		return p.report(), err
	}
	if p.old != nil && p.old.Damaged {
		if err := p.recall(ctx, into); err != nil {
			return p.report(), err
		}
	}
	k := p.key()
	done := p.report()
	done.Versions, done.Algorithm = describe(k, p.now, p.fresh), k.Algorithm
	if s.DryRun {
		done.Action = AdoptWould
		return done, nil
	}
	ctx, cancel := detach(ctx)
	defer cancel()
	rec := e.record(actor, "adopt", k, 0)
	rec.Details = p.details(k)
	done.Action = AdoptDone
	err := e.recorded(ctx, rec, func() error {
		if p.old != nil && !p.old.Damaged {
			k.Epoch = p.old.Epoch + 1
			return e.commit(ctx, store.Change{Key: k, FromEpoch: p.old.Epoch})
		}
		if err := into.Adopt(ctx, k); err != nil {
			return err
		}
		return e.refresh(ctx)
	})
	switch {
	case errors.Is(err, keys.ErrAudit), errors.Is(err, keys.ErrStore):
		return done, err
	case err != nil:
		done.Action, done.Text = AdoptFailed, publicText(err)
		e.log.ErrorContext(ctx, "a key is not adopted", "key", p.name, "err", err)
	}
	return done, nil
}

// inspectAll reads and uses the objects of the versions that get a row.
func (e *Engine) inspectAll(ctx context.Context, s AdoptSpec, p *adoptPlan) error {
	for i := range p.fresh {
		f := &p.fresh[i]
		var err error
		switch f.made, err = e.token.Inspect(ctx, f.ref); {
		case errors.Is(err, keys.ErrInvalid), errors.Is(err, keys.ErrNotFound), errors.Is(err, keys.ErrUnsupported):
			p.refuse("version %s: %s", f.id, publicText(err))
			return nil
		case err != nil:
			return fmt.Errorf("using the key of %s: %w", f.id, err)
		}
		if !s.Unprotected && !(f.made.NeverExtractable && f.made.AlwaysSensitive) {
			p.refuse("the key of version %s can leave the token, or could have before: somebody may have a copy of it. "+
				"To take it all the same, knowing that, say --allow-unprotected", f.id)
			return nil
		}
	}
	return nil
}

// recall takes the revocations over that the altered rows of a key tell of:
// whoever altered them could only take versions out of use by that. Which
// versions there are, and what they are, the token says.
func (p *adoptPlan) recall(ctx context.Context, into AdoptStore) error {
	old, err := into.Readable(ctx, p.name)
	if errors.Is(err, keys.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range old.Versions {
		for i := range p.fresh {
			f := &p.fresh[i]
			if f.id.Number == v.Number && f.ref.ID == v.ObjectID && !v.RevokedAt.IsZero() && f.revokedAt.IsZero() {
				f.revokedAt, f.revoked = v.RevokedAt, "the row that was altered said that it is compromised"
			}
		}
	}
	return nil
}

// details says in the audit log what the rows are made of.
func (p *adoptPlan) details(k *keys.Key) map[string]string {
	d := map[string]string{"token": k.Token, "rows": p.rows()}
	for _, f := range p.fresh {
		d[f.id.String()] = fmt.Sprintf("cka_id %s, %s, label %q, never extractable %t, always sensitive %t, compromised %t",
			f.ref.ID, f.ref.Algorithm, f.ref.Label, f.made.NeverExtractable, f.made.AlwaysSensitive, !f.revokedAt.IsZero())
	}
	return d
}
