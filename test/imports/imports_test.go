// Package imports holds the table of who may import whom: imports point down,
// and a package without a line in the table fails the test.
package imports

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluice-mq/sluice/"

// sdk and gen are short names for what is generated or shipped apart.
const (
	sdk = "sdk/go"
	v1  = "sdk/go/sluicev1"
)

// leaf packages may be imported by everybody.
var leaf = []string{"internal/fault", "internal/telemetry", "internal/secret", "internal/mq"}

// allowed lists, for each package, what of ours it may import besides the leaves.
// A line that ends in /... stands for a folder.
var allowed = map[string][]string{
	"cmd/sluice":         {"internal/cli"},
	"internal/cli":       {"internal/node", "internal/config", "internal/bench", "internal/torture", sdk, v1, "gen/..."},
	"internal/node":      {"internal/...", "gen/...", v1},
	"internal/config":    {"internal/rpc", "internal/publish", "internal/consume", "internal/control", "internal/mq/...", "internal/telemetry", "internal/store", "internal/peer", "internal/cluster"},
	"internal/rpc":       {"gen/...", v1, "internal/auth"},
	"internal/rpc/data":  {"internal/rpc", "internal/publish", "internal/consume", "internal/auth", "internal/peer", "internal/receipt", "internal/snapshot", v1, "gen/..."},
	"internal/rpc/admin": {"internal/rpc", "internal/auth", "internal/control", "internal/snapshot", "gen/...", v1},
	"internal/rpc/peer":  {"internal/rpc", "internal/auth", "internal/consume", "internal/control", "internal/publish", "internal/snapshot", "gen/...", v1},
	"internal/publish":   {"internal/snapshot", "internal/auth", "internal/route", "internal/breaker"},
	"internal/consume":   {"internal/lane", "internal/ackmap", "internal/receipt", "internal/filter", "internal/route", "internal/snapshot", "internal/auth"},
	"internal/control":   {"internal/store", "internal/snapshot", "internal/auth", "internal/peer", "internal/route", "internal/cluster", "internal/alert"},
	"internal/cluster":   {"internal/snapshot"},
	"internal/store":     {"internal/snapshot"},
	"internal/snapshot":  {"gen/...", v1},
	"internal/auth":      {"internal/snapshot"},
	"internal/peer":      {"gen/...", v1, "internal/auth", "internal/snapshot"},
	"internal/bench":     {v1},

	"internal/lane":        {"internal/ackmap", "internal/receipt"},
	"internal/ackmap":      {},
	"internal/receipt":     {},
	"internal/fault":       {},
	"internal/secret":      {},
	"internal/telemetry":   {},
	"internal/mq":          {},
	"internal/mq/mqtest":   {"internal/mq/roster"},
	"internal/mq/roster":   {},
	"internal/mq/kafka":    {},
	"internal/mq/embedded": {"internal/mq/roster"},
	"gen/adminv1":          {"gen/nodev1", v1},
	"gen/nodev1":           {v1},
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "test/") {
			continue // tests and their tools may drive anything
		}
		may, known := allowed[name]
		if !known {
			t.Errorf("%s has no line in the import table", name)
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if ours && !slices.Contains(leaf, imp) && !matches(may, imp) {
				t.Errorf("%s imports %s", name, imp)
			}
		}
	}
}

func matches(may []string, imp string) bool {
	return slices.ContainsFunc(may, func(m string) bool {
		folder, all := strings.CutSuffix(m, "...")
		return m == imp || all && strings.HasPrefix(imp, folder)
	})
}
