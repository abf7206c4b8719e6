package authz_test

import (
	"errors"
	"regexp"
	"slices"
	"testing"

	"keyhole/authz"
	"keyhole/keys"
)

// TestReasons: they are labels of metrics and words of the audit log.
func TestReasons(t *testing.T) {
	t.Parallel()
	all := authz.Reasons()
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	for _, r := range all {
		if !word.MatchString(r) {
			t.Errorf("%q is no stable word", r)
		}
	}
	slices.Sort(all)
	if n := len(slices.Compact(slices.Clone(all))); n != len(all) || n == 0 {
		t.Errorf("%d reasons, %d of them different", len(all), n)
	}
	f := &authz.Failure{Reason: "expired"}
	if f.Error() != "authentication failed: expired" || !errors.Is(f, keys.ErrUnauthenticated) {
		t.Errorf("a failure is %v", f)
	}
	if a := authz.Anonymous(); a.ID != "anonymous" || a.Method != authz.MethodAnonymous || a.Groups != nil {
		t.Errorf("anonymous is %+v", a)
	}
}
