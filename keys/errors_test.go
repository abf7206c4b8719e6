package keys_test

import (
	"errors"
	"fmt"
	"testing"

	"keyhole/keys"
)

func TestErrorCarriesItsSentinelAndDetail(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("signing: %w", keys.Errorf(keys.ErrInvalid, "the digest has %d bytes", 3))
	if !errors.Is(err, keys.ErrInvalid) || errors.Is(err, keys.ErrMalformed) {
		t.Errorf("%v is not only ErrInvalid", err)
	}
	var detailed *keys.Error
	if !errors.As(err, &detailed) || detailed.Detail != "the digest has 3 bytes" || detailed.Error() != detailed.Detail {
		t.Errorf("the detail is %+v", detailed)
	}
}
