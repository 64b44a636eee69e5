// Package docs holds the documentation to the code: links lead somewhere, tests that a page names exist, every metric has
// its line.
package docs

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// sources reads the files under dirs whose path fits.
func sources(t *testing.T, fits func(path string) bool, dirs ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !fits(path) {
				return err
			}
			b, err := os.ReadFile(path)
			found[path] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func isPage(path string) bool { return strings.HasSuffix(path, ".md") }

var link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for path, text := range sources(t, isPage, "docs", "README.md", "CONTRIBUTING.md") {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	}
}

var (
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]+)`")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z][A-Za-z0-9]+)\(`)
	testCase = regexp.MustCompile(`(?m)^\t\{"([A-Z][A-Za-z]+)", `)
	caseName = regexp.MustCompile("case `([A-Z][A-Za-z]+)`")
)

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	tests, cases := map[string]bool{}, map[string]bool{}
	for path, text := range sources(t, func(p string) bool { return strings.HasSuffix(p, ".go") }, "internal", "test", "sdk/go") {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(text, -1) {
				tests[m[1]] = true
			}
		}
		if strings.HasSuffix(path, "_cases.go") {
			for _, m := range testCase.FindAllStringSubmatch(text, -1) {
				cases[m[1]] = true
			}
		}
	}
	for path, text := range sources(t, isPage, "docs") {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
		for _, m := range caseName.FindAllStringSubmatch(text, -1) {
			if !cases[m[1]] {
				t.Errorf("%s names the conformance case %s, which is not there", path, m[1])
			}
		}
	}
}

var (
	wholeName  = regexp.MustCompile(`Name:\s*"(sluice_[a-z_]+[a-z])"`)
	prefix     = regexp.MustCompile(`"(sluice_[a-z]+_)" \+ name`)
	suffix     = regexp.MustCompile(`\b(?:counter|gauge|vec|histogram)\(\s*"([a-z_]+)"`)
	documented = regexp.MustCompile("(?m)^\\| `(sluice_[a-z_]+)` \\|")
)

func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	inCode := map[string]bool{}
	for _, text := range sources(t, func(p string) bool { return filepath.Base(p) == "metrics.go" }, "internal") {
		for _, m := range wholeName.FindAllStringSubmatch(text, -1) {
			inCode[m[1]] = true
		}
		if p := prefix.FindStringSubmatch(text); p != nil {
			for _, m := range suffix.FindAllStringSubmatch(text, -1) {
				inCode[p[1]+m[1]] = true
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/operate/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	onPage := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(string(page), -1) {
		onPage[m[1]] = true
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(inCode)), slices.Sorted(maps.Keys(onPage))); d != "" {
		t.Errorf("docs/operate/metrics.md differs from the code (-code +page):\n%s", d)
	}
}
