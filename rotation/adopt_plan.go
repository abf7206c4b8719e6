package rotation

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"keyhole/keys"
)

// inventory is what the tokens and the store have.
type inventory struct {
	objects []keys.TokenObject
	marks   []keys.RevocationMark
	known   map[string]*keys.Key
	open    map[string]bool // keys with an open rotation
	capable func(token string, alg keys.Algorithm) error
	now     time.Time
}

// adoptPlan is what is to be done about one key.
type adoptPlan struct {
	name    string
	token   string
	old     *keys.Key // as the store has it; nil: not at all
	fresh   []freshVersion
	highest uint32 // a number that was used before
	now     time.Time

	refusal string
	fix     []string
}

// freshVersion is a version that gets a row.
type freshVersion struct {
	id        keys.VersionID
	ref       keys.Ref
	foreign   bool // another tool made it: its label is not the version id
	made      keys.Generated
	revokedAt time.Time
	revoked   string // why
}

func (p *adoptPlan) refuse(format string, args ...any) {
	if p.refusal == "" {
		p.refusal = fmt.Sprintf(format, args...)
	}
}

// good reports whether the store has rows of the key that can be believed.
func (p *adoptPlan) good() bool { return p.old != nil && !p.old.Damaged }

// next returns the number behind all that the key has had.
func (p *adoptPlan) next() uint32 {
	n := p.highest
	if p.good() && p.old.Latest() != nil {
		n = max(n, p.old.Latest().Number)
	}
	return n + 1
}

// candidate are the objects that make one version.
type candidate struct {
	id      keys.VersionID
	asked   keys.Algorithm // "": whatever fits
	objects []keys.TokenObject
}

// plan says what is to be done about every key that the tokens have objects
// of, or that was asked for, and counts the objects of others.
func (in inventory) plan(s AdoptSpec) (plans []*adoptPlan, foreign int) {
	byName := map[string]*adoptPlan{}
	planOf := func(name string) *adoptPlan {
		if byName[name] == nil {
			byName[name] = &adoptPlan{name: name, old: in.known[name], now: in.now}
			if s.Highest != nil {
				byName[name].highest = s.Highest(name)
			}
		}
		return byName[name]
	}
	versions := map[keys.VersionID]*candidate{}
	others := map[string][]keys.TokenObject{} // by label
	for _, o := range in.objects {
		id, err := keys.ParseVersionID(o.Label)
		if err != nil {
			others[o.Label] = append(others[o.Label], o)
			foreign++
			continue
		}
		if keys.OwnObject(id.Key) {
			continue
		}
		p := planOf(id.Key)
		p.highest = max(p.highest, id.Number)
		if slices.Contains(s.Skip, id) {
			continue
		}
		if versions[id] == nil {
			versions[id] = &candidate{id: id}
		}
		versions[id].objects = append(versions[id].objects, o)
	}
	for _, m := range in.marks {
		if p := byName[m.Version.Key]; p != nil {
			p.highest = max(p.highest, m.Version.Number)
		}
	}
	for _, i := range s.Imports {
		p := planOf(i.Key)
		foreign -= in.take(p, i, others, versions)
	}
	for _, id := range slices.SortedFunc(maps.Keys(versions), func(a, b keys.VersionID) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Number, b.Number))
	}) {
		in.add(byName[id.Key], s, versions[id])
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		plans = append(plans, byName[name])
	}
	return plans, foreign
}

// take makes a version of the objects that an import names, and returns how
// many they are.
func (in inventory) take(p *adoptPlan, i Import, others map[string][]keys.TokenObject, versions map[keys.VersionID]*candidate) int {
	if err := keys.CheckNewName(i.Key); err != nil {
		p.refuse("%s", publicText(err))
		return 0
	}
	if id, err := keys.ParseVersionID(i.Label); err == nil {
		p.refuse("objects labelled %q are those of version %s, and are taken under that name without --import", i.Label, id)
		return 0
	}
	own := slices.DeleteFunc(slices.Clone(others[i.Label]), func(o keys.TokenObject) bool { return i.Token != "" && o.Token != i.Token })
	if len(own) == 0 {
		p.refuse("no key object is labelled %q", i.Label)
		return 0
	}
	for _, o := range own {
		if o.Token != own[0].Token || !bytes.Equal(o.ID, own[0].ID) {
			p.refuse("several keys are labelled %q (CKA_ID %x on the token %q, %x on %q): give each a label of its own, or name the token",
				i.Label, own[0].ID, own[0].Token, o.ID, o.Token)
			return 0
		}
	}
	for _, k := range in.known {
		for _, v := range k.Versions {
			if k.Damaged || !bytes.Equal(v.ObjectID[:], own[0].ID) || k.Token != own[0].Token {
				continue
			}
			if k.Name != i.Key {
				p.refuse("the key labelled %q is version %s already", i.Label, k.ID(v))
			}
			return len(own) // it was taken in before
		}
	}
	if p.good() {
		p.refuse("key %q is there already: take the key labelled %q in under another name", i.Key, i.Label)
		return 0
	}
	id := keys.VersionID{Key: i.Key, Number: i.Number}
	if id.Number == 0 {
		id.Number = p.next()
	}
	if versions[id] != nil {
		p.refuse("version %s is there already", id)
		return 0
	}
	p.highest = max(p.highest, id.Number)
	versions[id] = &candidate{id: id, asked: i.Algorithm, objects: own}
	return len(own)
}

// add plans a row for a version, unless it has one.
func (in inventory) add(p *adoptPlan, s AdoptSpec, c *candidate) {
	if p.good() {
		if _, err := p.old.Version(c.id.Number); err == nil {
			return
		}
		switch last := p.old.Latest(); {
		case last != nil && c.id.Number < last.Number:
			p.refuse("the store has rows of the key up to version %d and none of version %s, whose objects are on the token: it knows better. Say --skip %s to leave them alone", last.Number, c.id, c.id)
			return
		case in.open[p.name]:
			p.refuse("a rotation of the key is open, and the token has a version %s that the store does not know. Let the gateway finish or undo the rotation first", c.id)
			return
		}
		p.token = p.old.Token
	}
	key, ok := c.onlyKey(p)
	if !ok {
		return
	}
	if p.token == "" {
		p.token = key.Token
	}
	if key.Token != p.token {
		p.refuse("its versions are on more than one token: %q and %q. Move them to one, or --skip the others", p.token, key.Token)
		return
	}
	alg := in.algorithm(p, s, c, key)
	if alg == "" {
		return
	}
	if len(p.fresh) > 0 && p.fresh[0].ref.Algorithm.Purpose() != alg.Purpose() || p.good() && p.old.Purpose != alg.Purpose() {
		p.refuse("version %s is of %s, and others of its versions do something else: a key signs or encrypts, not both", c.id, alg)
		return
	}
	f := freshVersion{id: c.id, foreign: key.Label != c.id.String(), ref: keys.Ref{
		Token: key.Token, ID: keys.ObjectID(key.ID), Label: key.Label, Algorithm: alg, Bits: key.Bits,
	}}
	for _, m := range in.marks {
		if m.Token == f.ref.Token && m.Version == f.id && m.ObjectID == f.ref.ID {
			f.revokedAt, f.revoked = m.RevokedAt, lostReason
		}
	}
	p.fresh = append(p.fresh, f)
}

// onlyKey returns the private or secret key of a version: there must be one,
// with a CKA_ID that Keyhole can use and that its public half has too.
func (c *candidate) onlyKey(p *adoptPlan) (key keys.TokenObject, ok bool) {
	count := map[keys.ObjectClass]int{}
	for _, o := range c.objects {
		if count[o.Class]++; o.Class != keys.ClassPublic {
			key = o
		}
	}
	skip := fmt.Sprintf("or say --skip %s to leave the version out", c.id)
	switch secrets := count[keys.ClassPrivate] + count[keys.ClassSecret]; {
	case secrets == 0:
		p.refuse("of version %s only the public half is on the token. Restore its private key from a backup of the token, %s", c.id, skip)
		return key, false
	case secrets > 1 || count[keys.ClassPublic] > 1:
		p.refuse("several key objects are labelled %q. Remove the wrong ones, %s", key.Label, skip)
		return key, false
	}
	for _, o := range c.objects {
		if !bytes.Equal(o.ID, key.ID) {
			p.refuse("the two halves of version %s have different CKA_IDs. Give them one, %s", c.id, skip)
			return key, false
		}
	}
	if len(key.ID) != len(keys.ObjectID{}) {
		p.token = key.Token // that of the commands
		p.refuse("the key labelled %q has a CKA_ID of %d bytes, and Keyhole finds keys by one of 16 random bytes. "+
			"Give it one; what finds the key by the old CKA_ID must be told", key.Label, len(key.ID))
		p.fix = append(p.fix, newID(c.objects)...)
		return key, false
	}
	return key, true
}

// newID are commands that give the objects of a key a CKA_ID of 16 bytes.
func newID(objects []keys.TokenObject) (commands []string) {
	types := map[keys.ObjectClass]string{keys.ClassPrivate: "privkey", keys.ClassPublic: "pubkey", keys.ClassSecret: "secrkey"}
	id := keys.NewObjectID()
	for _, o := range objects {
		if len(o.ID) > 0 { // an object without a CKA_ID cannot be named by one
			commands = append(commands, fmt.Sprintf("pkcs11-tool --module MODULE --token-label TOKEN --login --type %s --id %s --set-id %s",
				types[o.Class], hex.EncodeToString(o.ID), id))
		}
	}
	return commands
}

// algorithm returns what a version is for: as asked, else as recorded, else
// the only one that its key fits and its token has. "": refused.
func (in inventory) algorithm(p *adoptPlan, s AdoptSpec, c *candidate, key keys.TokenObject) keys.Algorithm {
	var fit []keys.Algorithm
	for _, alg := range key.Algorithms {
		public := slices.IndexFunc(c.objects, func(o keys.TokenObject) bool { return o.Class == keys.ClassPublic })
		if in.capable(key.Token, alg) == nil && (public < 0 || slices.Contains(c.objects[public].Algorithms, alg)) {
			fit = append(fit, alg)
		}
	}
	if len(fit) == 0 {
		p.refuse("Keyhole has no use for the key of version %s: its type, size or permitted uses fit no algorithm that the token has", c.id)
		return ""
	}
	recorded := keys.Algorithm("")
	if s.Recorded != nil && len(key.ID) == len(keys.ObjectID{}) {
		recorded = s.Recorded(keys.ObjectID(key.ID))
	}
	for _, asked := range []keys.Algorithm{c.asked, s.Algorithms[c.id.String()], s.Algorithms[c.id.Key]} {
		switch {
		case asked == "":
		case !slices.Contains(fit, asked):
			p.refuse("the key of version %s is none of %s; it can be one of %s", c.id, asked, list(fit))
			return ""
		default:
			return asked
		}
	}
	switch {
	case slices.Contains(fit, recorded):
		return recorded
	case len(fit) == 1:
		return fit[0]
	}
	p.refuse("the key of version %s can be one of %s, and the token does not tell which. Say --algorithm %s=%s, or whichever it was made for",
		c.id, list(fit), c.id, fit[0])
	return ""
}

func list(algs []keys.Algorithm) string {
	names := make([]string, len(algs))
	for i, a := range algs {
		names[i] = string(a)
	}
	return strings.Join(names, ", ")
}
