// Package marks keeps revocations on a token: one data object (CKO_DATA) for
// each version that is compromised, which nothing in Keyhole changes or
// removes. It outlives the database, and copies of it that are put back.
//
// # Who can write marks
//
// Where the token allows it marks are private objects (CKA_PRIVATE), and only
// such are read: nobody can make or remove one without the token's PIN. Whoever
// has the PIN can make a mark, as he can destroy the key. A forged mark can
// only take a version out of use, never bring one back; so a mark carries no
// MAC, which the same PIN would make, and is read strictly instead: what is not
// spelled as Keyhole spells it is none, and is reported.
package marks

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/module"
	"keyhole/keys"
)

// application is CKA_APPLICATION of every mark; labels end in suffix.
const (
	application = "keyhole"
	suffix      = ".revoked"
	probe       = "keyhole-probe" // both, of what Probe makes
)

// Marks are those on one token. Its methods are for management operations.
type Marks struct {
	token   string
	log     *slog.Logger
	private bool  // CKA_PRIVATE of marks
	limit   error // why the token keeps none; nil: it does
}

// Probe finds out whether the token keeps marks, by one that it makes and
// removes: NSS makes data objects that end with the session, and no others. It
// fails only when the token does.
func Probe(tok *module.Token, log *slog.Logger) (*Marks, error) {
	m := &Marks{token: tok.Name(), log: log}
	err := tok.Inside(func() error {
		for _, m.private = range []bool{true, false} {
			s := &module.Session{RW: true}
			if err := tok.Ready(s); err != nil {
				return err
			}
			m.limit = fault.Again(func() error { return m.try(s) })
			s.Drop()
			if m.limit == nil {
				return nil
			}
			if fault.Of(m.limit) == fault.Device {
				return m.limit
			}
		}
		return nil
	})
	return m, err
}

// try makes a data object, which is no mark, reads it back, and removes it.
func (m *Marks) try(s *module.Session) error {
	value := render(keys.RevocationMark{Version: keys.VersionID{Key: "keyhole-probe", Number: 1}, ObjectID: keys.NewObjectID(), RevokedAt: time.Unix(0, 0)})
	o, err := s.Create(m.template(probe, probe, value))
	if err != nil {
		return err
	}
	got, err := s.Attribute(o, pkcs11.CKA_VALUE)
	if err == nil && string(got) != value {
		err = fmt.Errorf("a data object came back changed: %w", keys.ErrHSM)
	}
	start := time.Now()
	if derr := s.Note(fault.OpDestroy, start, s.Ctx().DestroyObject(s.Handle(), o)); derr != nil {
		m.log.Warn("a data object that was made for trial is left on the token", "application", probe, "err", derr)
	}
	return err
}

// Supported returns nil if the token keeps marks; else keys.ErrUnsupported.
func (m *Marks) Supported() error {
	if m.limit == nil {
		return nil
	}
	return keys.Errorf(keys.ErrUnsupported, "the token %q keeps no data objects, so that no mark of a revocation can be left on it", m.token)
}

// Limit returns why the token keeps no marks, for the log; nil: it does.
func (m *Marks) Limit() error { return m.limit }

// Private reports whether only who is logged in sees and makes them.
func (m *Marks) Private() bool { return m.private }

func (m *Marks) template(application, label, value string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, m.private),       // nobody makes or removes one without a login
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),        // it says the same for good
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),             // for people
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, application), // how they are found
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	}
}

// Put leaves a mark, unless it is there. Errors: keys.ErrUnsupported (the
// token keeps none), ErrHSM.
func (m *Marks) Put(s *module.Session, mark keys.RevocationMark) error {
	if err := m.Supported(); err != nil {
		return err
	}
	return fault.Again(func() error {
		there, err := m.find(s, pkcs11.NewAttribute(pkcs11.CKA_LABEL, mark.Version.String()+suffix))
		if err != nil {
			return err
		}
		for _, old := range there {
			if old.Version == mark.Version && old.ObjectID == mark.ObjectID {
				return nil
			}
		}
		value := render(mark)
		o, err := s.Create(m.template(application, mark.Version.String()+suffix, value))
		if err != nil {
			return err
		}
		got, err := s.Attribute(o, pkcs11.CKA_VALUE)
		if err == nil && string(got) != value {
			err = fmt.Errorf("token %q keeps another mark than was made: %w", m.token, keys.ErrHSM)
		}
		return err
	})
}

// All returns the marks, and none where the token keeps none. Data objects
// that look like marks and are none are reported to the log.
func (m *Marks) All(s *module.Session) ([]keys.RevocationMark, error) {
	if m.limit != nil {
		return nil, nil
	}
	return m.find(s)
}

func (m *Marks) find(s *module.Session, match ...*pkcs11.Attribute) ([]keys.RevocationMark, error) {
	found, err := s.Find(math.MaxInt32, append(match,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, m.private),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, application))...)
	if err != nil {
		return nil, err
	}
	type which struct {
		version keys.VersionID
		id      keys.ObjectID
	}
	at := map[which]int{}
	var all []keys.RevocationMark
	for _, o := range found {
		got, err := s.Attributes(o, pkcs11.CKA_LABEL, pkcs11.CKA_VALUE)
		if err != nil {
			return nil, err
		}
		mark, ok := parse(string(got[pkcs11.CKA_LABEL]), string(got[pkcs11.CKA_VALUE]))
		if !ok {
			m.log.Error("a data object that looks like a mark of a revocation is none; find out who wrote it", "label", cut(got[pkcs11.CKA_LABEL]))
			continue
		}
		mark.Token = m.token
		i, twice := at[which{mark.Version, mark.ObjectID}]
		if !twice {
			at[which{mark.Version, mark.ObjectID}] = len(all)
			all = append(all, mark)
		} else if mark.RevokedAt.Before(all[i].RevokedAt) {
			all[i] = mark // of several gateways
		}
	}
	return all, nil
}

func cut(label []byte) string {
	return string(label[:min(len(label), keys.MaxNameLen+len(".v4294967295"+suffix))])
}

// The one spelling of a mark: "keyhole revoked v1", the version, its CKA_ID
// and the time, in microseconds and UTC, with one blank between.
const (
	head       = "keyhole revoked v1"
	timeLayout = "2006-01-02T15:04:05.000000Z"
)

func render(m keys.RevocationMark) string {
	return strings.Join([]string{head, m.Version.String(), m.ObjectID.String(), m.RevokedAt.UTC().Format(timeLayout)}, " ")
}

// parse reads a mark; false if label and value are not what Put writes.
func parse(label, value string) (keys.RevocationMark, bool) {
	rest, ok := strings.CutPrefix(value, head+" ")
	fields := strings.Split(rest, " ")
	if !ok || len(fields) != 3 {
		return keys.RevocationMark{}, false
	}
	var m keys.RevocationMark
	var err error
	if m.Version, err = keys.ParseVersionID(fields[0]); err != nil || label != fields[0]+suffix {
		return keys.RevocationMark{}, false
	}
	if m.ObjectID, err = keys.ParseObjectID(fields[1]); err != nil {
		return keys.RevocationMark{}, false
	}
	if m.RevokedAt, err = time.Parse(timeLayout, fields[2]); err != nil || render(m) != value {
		return keys.RevocationMark{}, false
	}
	return m, true
}
