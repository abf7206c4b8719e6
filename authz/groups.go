package authz

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"keyhole/authz/internal/text"
)

// Bounds of what credentials and files may say.
const (
	maxSubject    = 256
	maxGroup      = 256
	maxGroups     = 256
	maxGroupsFile = 1 << 20
)

// members are the groups of each principal, as configured.
type members map[string][]string

// readMembers joins the configured groups and those of a file ("": none).
func readMembers(configured map[string][]string, file string) (members, error) {
	m := members{}
	if err := m.add(configured); err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	if file == "" {
		return m, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading groups: %w", err)
	}
	groups, err := parseGroups(data)
	if err == nil {
		err = m.add(groups)
	}
	if err != nil {
		return nil, fmt.Errorf("reading groups from %s: %w", file, err)
	}
	return m, nil
}

// parseGroups reads YAML from group names to lists of principals.
func parseGroups(data []byte) (map[string][]string, error) {
	if len(data) > maxGroupsFile {
		return nil, fmt.Errorf("the file has more than %d bytes", maxGroupsFile)
	}
	var groups map[string][]string
	if err := yaml.Load(data, &groups); err != nil {
		return nil, err
	}
	if groups == nil {
		return nil, errors.New("it is empty; write {} for no groups")
	}
	return groups, nil
}

func (m members) add(groups map[string][]string) error {
	for group, principals := range groups {
		if !text.Printable(group, maxGroup) {
			return fmt.Errorf("a group's name must be 1 to %d bytes of printable text, not %.64q", maxGroup, group)
		}
		for _, p := range principals {
			if !strings.HasPrefix(p, "jwt:") && !strings.HasPrefix(p, "mtls:") || !text.Printable(p, 2*maxSubject) {
				return fmt.Errorf("group %q: %.64q is no principal; one looks like jwt:<issuer>:<subject> or mtls:<name>", group, p)
			}
			m[p] = merge(m[p], group)
		}
	}
	return nil
}

// of returns the groups of a principal: those that its credentials name and
// those configured, sorted, each once.
func (m members) of(principal string, named []string) []string {
	return merge(slices.Clip(named), m[principal]...)
}

func merge(groups []string, more ...string) []string {
	all := append(groups, more...)
	slices.Sort(all)
	return slices.Compact(all)
}
