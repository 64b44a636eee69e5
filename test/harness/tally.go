package harness

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// Message is a line of `sluice sub -o json`.
type Message struct {
	ID        string `json:"id"`
	Key       string `json:"key"`
	Body      string `json:"body"`
	Topic     string `json:"topic"`
	Cluster   string `json:"cluster"`
	Partition string `json:"partition"`
	Offset    string `json:"offset"`
	Attempt   int    `json:"attempt"`
}

// Stored is a line of `sluice pub -o json`.
type Stored struct {
	ID        string `json:"id"`
	Cluster   string `json:"cluster"`
	Partition string `json:"partition"`
	Offset    string `json:"offset"`
	Status    string `json:"status"`
	Error     *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// Decode reads a line of JSON per element; a last line that a kill cut off is left out.
func Decode[T any](t testing.TB, lines []string) []T {
	t.Helper()
	out := make([]T, 0, len(lines))
	for i, l := range lines {
		var v T
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			if i == len(lines)-1 {
				break
			}
			t.Fatalf("line %d is not JSON: %v: %s", i+1, err, l)
		}
		out = append(out, v)
	}
	return out
}

// Tally counts what was stored against what was delivered, by id.
type Tally struct {
	Stored, Delivered, Lost, Repeated, Unknown int
	missing                                    []string
}

// Count compares the ids that were stored with those delivered. Ids that were delivered but not stored are counted as
// unknown unless maybe holds them: what was maybe sent may be there.
func Count(stored, maybe, delivered []string) Tally {
	c := Tally{Stored: len(stored), Delivered: len(delivered)}
	seen := make(map[string]int, len(delivered))
	for _, id := range delivered {
		seen[id]++
		if seen[id] == 2 {
			c.Repeated++
		}
	}
	known := make(map[string]bool, len(stored)+len(maybe))
	for _, id := range stored {
		known[id] = true
		if seen[id] == 0 {
			c.Lost++
			c.missing = append(c.missing, id)
		}
	}
	for _, id := range maybe {
		known[id] = true
	}
	for id := range seen {
		if !known[id] {
			c.Unknown++
		}
	}
	return c
}

// String shows the counts, and the first ids that are lost.
func (c Tally) String() string {
	s := fmt.Sprintf("stored %d, delivered %d, lost %d, repeated %d, unknown %d", c.Stored, c.Delivered, c.Lost, c.Repeated, c.Unknown)
	if c.Lost > 0 {
		s += fmt.Sprintf("; first lost: %v", c.missing[:min(10, len(c.missing))])
	}
	return s
}

// Exactly fails the test unless everything stored came once and nothing else did.
func (c Tally) Exactly(t testing.TB) {
	t.Helper()
	if c.Lost != 0 || c.Repeated != 0 || c.Unknown != 0 || c.Stored != c.Delivered {
		t.Errorf("want each stored message once: %s", c)
	}
}

// NoneLost fails the test when something stored did not come, or something came that nobody sent.
func (c Tally) NoneLost(t testing.TB) {
	t.Helper()
	if c.Lost != 0 || c.Unknown != 0 {
		t.Errorf("want nothing lost and nothing unknown: %s", c)
	}
}

// IDs are the ids of messages.
func IDs(ms []Message) []string {
	out := make([]string, len(ms))
	for i := range ms {
		out[i] = ms[i].ID
	}
	return out
}

// ByStatus are the ids that ended with one of the statuses.
func ByStatus(rs []Stored, status ...string) []string {
	var out []string
	for i := range rs {
		if slices.Contains(status, rs[i].Status) {
			out = append(out, rs[i].ID)
		}
	}
	return out
}
