package softhsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// utilTimeout bounds one run of softhsm2-util, which takes some 15 ms.
const utilTimeout = time.Minute

// util runs softhsm2-util on the directory's configuration.
func (d *directory) util(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), utilTimeout)
	defer cancel()
	//nolint:gosec // the operator's own softhsm2-util, no shell, and no argument comes from a request
	cmd := exec.CommandContext(ctx, d.inst.Util, append(args, "--module", d.inst.Module)...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+d.path(confName))
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", d.inst.Util, args[0], errors.Join(ctx.Err(), err), bytes.TrimSpace(errOut.Bytes()))
	}
	return out.String(), nil
}

// initToken initialises one more token and returns its serial.
func (d *directory) initToken(label, pin, so string) (string, error) {
	before, err := d.slots()
	if err != nil {
		return "", err
	}
	if _, err := d.util("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so); err != nil {
		return "", err
	}
	after, err := d.slots()
	if err != nil {
		return "", err
	}
	known := map[string]bool{}
	for _, s := range before {
		known[s.serial] = true
	}
	for _, s := range after {
		if s.initialized && !known[s.serial] && s.label == label {
			return s.serial, nil
		}
	}
	return "", fmt.Errorf("the new token %q is not among the slots of %s", label, d.dir)
}

// find returns the serials of the tokens that have the label, and how many
// others there are.
func (d *directory) find(label string) (serials []string, others int, err error) {
	slots, err := d.slots()
	for _, s := range slots {
		switch {
		case s.initialized && s.label == label:
			serials = append(serials, s.serial)
		case s.initialized:
			others++
		}
	}
	return serials, others, err
}

func (d *directory) slots() ([]slot, error) {
	out, err := d.util("--show-slots")
	if err != nil {
		return nil, err
	}
	return parseSlots(out), nil
}

type slot struct {
	label, serial string
	initialized   bool
}

// parseSlots reads what `softhsm2-util --show-slots` prints. SoftHSM always
// shows one slot more, with a token that is not initialised.
func parseSlots(out string) []slot {
	var all []slot
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Slot ") {
			all = append(all, slot{})
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || len(all) == 0 {
			continue
		}
		s, value := &all[len(all)-1], strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "Label":
			s.label = value
		case "Serial number":
			s.serial = value
		case "Initialized":
			s.initialized = value == "yes"
		}
	}
	return all
}
