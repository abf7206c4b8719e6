package rotation

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"

	"keyhole/keys"
	"keyhole/rotation/internal/tries"
)

// repair is what can be done about a difference.
type repair int

const (
	repairNone    repair = iota // it is for people
	repairDestroy               // the objects of a version that is destroyed
	repairAbandon               // a version that nothing makes any more, with its objects
	repairRevoke                // the version, as the mark says
	repairTry                   // the objects of a try to generate a version that another try has made
)

// difference is a Finding in the making.
type difference struct {
	Finding
	repair  repair
	version keys.VersionID
	ref     keys.Ref // of the objects to destroy
	mark    keys.RevocationMark
}

// same reports whether two looks have shown the same difference.
func (d difference) same(o difference) bool {
	return d.Kind == o.Kind && d.Token == o.Token && d.Label == o.Label && d.CKAID == o.CKAID && d.Key == o.Key && d.repair == o.repair
}

// view is what one look has shown: a token first, then the store.
type view struct {
	token   string
	objects []keys.TokenObject
	marks   []keys.RevocationMark
	keys    []*keys.Key             // all, of other tokens too
	open    map[keys.VersionID]bool // versions that a rotation is making
}

// known is a version of the view with what the token has of it.
type known struct {
	key     *keys.Key
	version *keys.Version
	id      keys.VersionID
	ref     keys.Ref
	objects []keys.TokenObject // that have its CKA_ID or its label
}

// compare returns the differences, and counts. It is pure.
func (v view) compare() (differences []difference, objects, foreign, versions int) {
	byID, byLabel := map[string]*known{}, map[string]*known{}
	damaged := map[string]bool{}
	var all []*known
	for _, k := range v.keys {
		damaged[k.Name] = k.Damaged
		if k.Token != v.token || k.Damaged {
			continue
		}
		for _, ver := range k.Versions {
			w := &known{key: k, version: ver, id: k.ID(ver), ref: k.Ref(ver)}
			all = append(all, w)
			byID[string(w.ref.ID[:])], byLabel[w.ref.Label] = w, w
		}
	}
	for _, o := range v.objects {
		w := byID[string(o.ID)]
		if w == nil {
			w = byLabel[o.Label]
		}
		id, err := keys.ParseVersionID(o.Label)
		if w == nil && err != nil {
			foreign++
			continue
		}
		objects++
		switch {
		case w != nil:
			w.objects = append(w.objects, o)
		case damaged[id.Key] || keys.OwnObject(id.Key):
		default:
			differences = append(differences, v.orphan(o, id))
		}
	}
	for _, w := range all {
		differences = append(differences, v.judge(w)...)
	}
	differences = append(differences, v.lostRevocations()...)
	slices.SortStableFunc(differences, func(a, b difference) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.version.Number, b.version.Number), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.CKAID, b.CKAID))
	})
	// The halves of a pair are one orphan.
	return slices.CompactFunc(differences, difference.same), objects, foreign, len(all)
}

// finding begins a difference about an object.
func (v view) finding(kind FindingKind, label string, id []byte, version keys.VersionID, format string, args ...any) difference {
	return difference{version: version, Finding: Finding{
		Kind: kind, Token: v.token, Label: label, CKAID: hex.EncodeToString(id), Key: version.Key, Text: fmt.Sprintf(format, args...), Action: FindingReported,
	}}
}

func (v view) orphan(o keys.TokenObject, id keys.VersionID) difference {
	why := "the store knows no such version"
	for _, k := range v.keys {
		if _, err := k.Version(id.Number); k.Name == id.Key && err == nil {
			why = fmt.Sprintf("the store has the key on the token %q", k.Token)
		}
	}
	return v.finding(FindingOrphan, o.Label, o.ID, id,
		"an object is labelled %s, and %s. It is left alone. If the database was lost or is an old copy, `keyholed adopt` takes the key in; if the key is of no use, remove the object with the token's own tool", id, why)
}

// judge compares one version with its objects.
func (v view) judge(w *known) []difference {
	switch {
	case !w.version.DestroyedAt.IsZero():
		return v.leftovers(w)
	case w.version.CreatedAt.IsZero() && v.open[w.id]:
		return nil // in the making
	case w.version.CreatedAt.IsZero():
		d := v.finding(FindingDamaged, w.ref.Label, w.ref.ID[:], w.id,
			"version %s was begun and never finished, and the rotation that makes it is not in the store any more", w.id)
		d.repair, d.ref = repairAbandon, w.ref
		return []difference{d}
	}
	return v.judgeLive(w)
}

// ofTry returns the difference that an object is, if a process that was given
// up has generated it for w and another one has made the version since.
func (v view) ofTry(w *known, o keys.TokenObject) (d difference, ok bool) {
	if w.version.Label != "" || o.Label != w.ref.Label || !tries.Earlier(o.ID, w.ref.ID) {
		return difference{}, false
	}
	d = v.finding(FindingNotDestroyed, o.Label, o.ID, w.id, "an object is left of a try to generate version %s, which another try has made since", w.id)
	d.repair, d.ref = repairTry, w.ref
	copy(d.ref.ID[:], o.ID)
	return d, true
}

// leftovers are objects of a version that is destroyed. Only what has both
// its CKA_ID and its label is destroyed.
func (v view) leftovers(w *known) (found []difference) {
	for _, o := range w.objects {
		if d, ok := v.ofTry(w, o); ok {
			found = append(found, d)
			continue
		}
		if !bytes.Equal(o.ID, w.ref.ID[:]) || o.Label != w.ref.Label {
			found = append(found, v.finding(FindingMismatch, o.Label, o.ID, w.id,
				"an object has the label or the CKA_ID of version %s, which is destroyed, but not both. It is left alone: find out who made it", w.id))
			continue
		}
		d := v.finding(FindingNotDestroyed, o.Label, o.ID, w.id,
			"version %s is destroyed, and its object is on the token: it was put back there, or its destruction was lost", w.id)
		d.repair, d.ref = repairDestroy, w.ref
		found = append(found, d)
	}
	return found
}

// judgeLive compares a version that is in use, or may be again.
func (v view) judgeLive(w *known) (found []difference) {
	own := map[keys.ObjectClass]int{} // objects with its CKA_ID
	say := func(kind FindingKind, o keys.TokenObject, format string, args ...any) {
		found = append(found, v.finding(kind, o.Label, o.ID, w.id, format, args...))
	}
	for _, o := range w.objects {
		if d, ok := v.ofTry(w, o); ok {
			found = append(found, d)
			continue
		}
		if !bytes.Equal(o.ID, w.ref.ID[:]) {
			say(FindingDuplicate, o, "a %s key object has the label of version %s and another CKA_ID. It is not used; find out who made it", o.Class, w.id)
			continue
		}
		own[o.Class]++
		switch {
		case o.Label != w.ref.Label:
			say(FindingMismatch, o, "the %s key object of version %s has the label %q in place of %q", o.Class, w.id, o.Label, w.ref.Label)
		case !slices.Contains(o.Algorithms, w.ref.Algorithm) || o.Bits != w.ref.Bits:
			say(FindingMismatch, o, "the %s key object of version %s is no key of %s with %d bits, or may not be used as one", o.Class, w.id, w.ref.Algorithm, w.ref.Bits)
		case len(o.PublicKey) > 0 && !bytes.Equal(o.PublicKey, w.ref.PublicKey):
			say(FindingMismatch, o, "the %s key object of version %s is another key than the one that the store describes; it is not used", o.Class, w.id)
		}
	}
	object := keys.TokenObject{Label: w.ref.Label, ID: w.ref.ID[:]}
	for _, class := range []keys.ObjectClass{keys.ClassPrivate, keys.ClassPublic, keys.ClassSecret} {
		if n := own[class]; n > 1 {
			say(FindingDuplicate, object, "%d %s key objects have the CKA_ID of version %s, and none of them is used: remove the wrong ones with the token's own tool", n, class, w.id)
		}
	}
	private, public := own[keys.ClassPrivate]+own[keys.ClassSecret], own[keys.ClassPublic]
	pair := w.ref.Algorithm.Family().Asymmetric()
	switch {
	case private == 0 && public == 0:
		say(FindingMissing, object, "the objects of version %s are not on the token: whatever needs its private or secret key fails. Restore them from a backup of the token; if they are lost, revoke the version", w.id)
	case private == 0:
		say(FindingHalfPair, object, "the private key of version %s is not on the token, only its public half: whatever needs it fails. Restore it from a backup of the token; if it is lost, revoke the version", w.id)
	case pair && public == 0:
		say(FindingHalfPair, object, "the public key object of version %s is not on the token. The version works all the same: the store has its public key", w.id)
	}
	return found
}

// lostRevocations compares the marks with the versions.
func (v view) lostRevocations() (found []difference) {
	for _, m := range v.marks {
		i := slices.IndexFunc(v.keys, func(k *keys.Key) bool { return k.Name == m.Version.Key && k.Token == v.token })
		if i < 0 || v.keys[i].Damaged {
			continue // the key was deleted since, or nothing can be done with it
		}
		k := v.keys[i]
		ver, err := k.Version(m.Version.Number)
		say := func(kind FindingKind, format string, args ...any) difference {
			return v.finding(kind, m.Version.String(), m.ObjectID[:], m.Version, format, args...)
		}
		switch {
		case err != nil:
			found = append(found, say(FindingRevocationLost,
				"the token says that version %s is compromised, and the store knows no such version: the database is an older copy of itself. Bring the newest one back", m.Version))
		case !ver.DestroyedAt.IsZero():
		case ver.ObjectID != m.ObjectID:
			found = append(found, say(FindingMismatch, "the token says that version %s with another CKA_ID is compromised. The mark is not taken for this version", m.Version))
		case ver.RevokedAt.IsZero() && !ver.CreatedAt.IsZero():
			d := say(FindingRevocationLost, "the token says that version %s is compromised, and the store did not: it was edited, or replaced by an older copy", m.Version)
			d.repair, d.mark = repairRevoke, m
			found = append(found, d)
		}
	}
	return found
}
