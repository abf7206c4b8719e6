package authz

import "strings"

// Identities returns every principal that the caller has proven to be.
func (p Principal) Identities() []string {
	if p.Also == "" || p.Also == p.ID {
		return []string{p.ID}
	}
	return []string{p.ID, p.Also}
}

// SamePerson reports whether two callers, by all of their identities, have to
// be taken for one person: they share an identity, or one of each bears the
// same name, in whatever case. The name is what is behind "mtls:", and of
// "jwt:<issuer>:<sub>" the sub as well as what is behind its last colon.
//
// It errs on the side of one person: who has a token of one issuer and a
// certificate, or tokens of two issuers, is not two.
func SamePerson(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y || shareName(namesOf(x), namesOf(y)) {
				return true
			}
		}
	}
	return false
}

func shareName(a, b [2]string) bool {
	for _, x := range a {
		if strings.EqualFold(x, b[0]) || strings.EqualFold(x, b[1]) {
			return true
		}
	}
	return false
}

func namesOf(id string) [2]string {
	if name, ok := strings.CutPrefix(id, "mtls:"); ok {
		return [2]string{name, name}
	}
	sub := id
	if rest, ok := strings.CutPrefix(id, "jwt:"); ok {
		if _, behind, ok := strings.Cut(rest, ":"); ok {
			sub = behind
		}
	}
	return [2]string{sub, sub[strings.LastIndexByte(sub, ':')+1:]}
}
