package wycheproof

import (
	"os"
	"testing"

	"keyhole/softhsm/softhsmtest"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 1)) }
