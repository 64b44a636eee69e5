package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/reference/config.md anew")

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	t.Parallel()
	path := write(t, "grpc: 127.0.0.1:1\nhttp: 127.0.0.1:2\nlog:\n  level: debug\ndata: /a\n")
	c, err := Load(Source{
		File:    path,
		Environ: []string{"SLUICE_CFG_HTTP=127.0.0.1:3", "SLUICE_CFG_LOG_FORMAT=json", "SLUICE_TOKEN=x", "SLUICE_TEST_KAFKA=y"},
		Flags:   []Setting{{Key: "data", Value: "/b", Origin: "flag --data"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range c.Values() {
		switch v.Key {
		case "grpc", "http", "data", "log.level", "log.format", "drain_timeout":
			got[v.Key] = v.Value + " from " + strings.ReplaceAll(v.Origin, path, "FILE")
		}
	}
	want := map[string]string{
		"grpc":          "127.0.0.1:1 from FILE:1",
		"http":          "127.0.0.1:3 from environment SLUICE_CFG_HTTP",
		"data":          "/b from flag --data",
		"log.level":     "debug from FILE:4",
		"log.format":    "json from environment SLUICE_CFG_LOG_FORMAT",
		"drain_timeout": "25s from default",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c.GRPC != "127.0.0.1:1" || c.HTTP != "127.0.0.1:3" || c.Data != "/b" || c.Log.Level != "debug" {
		t.Errorf("values did not reach the struct: %+v", c.Log)
	}
}

func TestAllFaultsAreReportedAtOnceWithTheirLines(t *testing.T) {
	t.Parallel()
	path := write(t, `grpc: nowhere
loog: {level: debug}
log:
  levle: debug
  format: xml
drain_timeout: 3 parsecs
drain_timeout: 5s
roles: [producer, cook]
tls: 3
node: {a: b}
data:
`)
	_, err := Load(Source{File: path, Environ: []string{"SLUICE_CFG_HTPP=1"}, Flags: []Setting{{Key: "log.repeat", Value: "0", Origin: "flag --set"}}})
	if err == nil {
		t.Fatal("no fault found")
	}
	got := strings.ReplaceAll(err.Error(), path, "FILE")
	for _, want := range []string{
		`config FILE:1: grpc: "nowhere" is not host:port; allowed: host:port`,
		`config FILE:2: loog: unknown key`,
		`config FILE:4: log.levle: unknown key (did you mean log.level?)`,
		`config FILE:5: log.format: "xml" is not one of them; allowed: text, json`,
		`config FILE:6: drain_timeout: "3 parsecs" is not a duration; allowed: a duration from 1s to 10m`,
		`config FILE:7: drain_timeout: stands here twice, first in line 6`,
		`config FILE:8: roles: "producer,cook" has the unknown role "cook"; allowed: producer, consumer, control`,
		`config FILE:9: tls: keys and values are expected here`,
		`config FILE:10: node: is a name, not a section`,
		`config FILE:11: data: has no value`,
		`config environment SLUICE_CFG_HTPP: no key has this name (did you mean http?)`,
		`config flag --set: log.repeat: "0" is out of range; allowed: a whole number from 1 to 100000`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in:\n%s", want, got)
		}
	}
}

func TestRulesBetweenKeys(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flags []Setting
		want  string // "" : fine
	}{
		"plain":                     {nil, ""},
		"another address":           {[]Setting{{"grpc", "0.0.0.0:7600", "flag --grpc"}}, "has no TLS"},
		"empty host":                {[]Setting{{"grpc", ":7600", "flag --grpc"}}, "not on the loopback"},
		"insecure on purpose":       {[]Setting{{"grpc", "0.0.0.0:7600", "f"}, {"insecure_listen", "true", "f"}}, ""},
		"dev elsewhere":             {[]Setting{{"http", "10.0.0.1:1", "f"}, {"dev", "true", "f"}, {"insecure_listen", "true", "f"}}, "leave out --dev"},
		"TLS":                       {[]Setting{{"grpc", "0.0.0.0:1", "f"}, {"tls.cert", "c", "f"}, {"tls.key", "k", "f"}}, ""},
		"key without certificate":   {[]Setting{{"tls.key", "k", "f"}}, "belong together"},
		"control and its addresses": {[]Setting{{"control.addresses", "a:1", "f"}}, "is the control plane itself"},
		"no control":                {[]Setting{{"roles", "producer", "f"}}, "needs the addresses"},
		"joins":                     {[]Setting{{"roles", "producer,consumer", "f"}, {"control.addresses", "a:1,b:2", "f"}}, ""},
		"pprof elsewhere":           {[]Setting{{"pprof", "0.0.0.0:6060", "f"}}, "profiles show memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(Source{Flags: tc.flags})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestFilesThatAreNoConfiguration(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("a: {", 100) + strings.Repeat("}", 100)
	bomb := "a: &a [x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("b%d: [*a,*a,*a,*a,*a,*a,*a,*a]\n", i)
	}
	for name, text := range map[string]string{
		"not YAML": "a: [", "text": "hello", "list": "- a\n- b\n", "two documents": "data: a\n---\ndata: b\n",
		"too deep": deep, "alias bomb": bomb, "binary": "\x00\x01", "too large": "#" + strings.Repeat("x", maxFileBytes+1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Load(Source{File: write(t, text)}); err == nil {
				t.Error("taken as a configuration")
			} else if strings.Contains(err.Error(), "\x00") || len(err.Error()) > 20_000 {
				t.Errorf("unreadable error: %.200q", err)
			}
		})
	}
	for name, text := range map[string]string{"empty": "", "comments": "# a\n---\n# b\n", "empty section": "log:\n"} {
		if _, err := Load(Source{File: write(t, text)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(Source{File: "/no/such/file"}); err == nil || !strings.Contains(err.Error(), "/no/such/file: cannot be read") {
		t.Errorf("missing file: %v", err)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	c, err := Load(Source{Flags: []Setting{
		{Key: "control.token", Value: canary, Origin: "flag --set"},
		{Key: "roles", Value: "producer", Origin: "f"},
		{Key: "control.addresses", Value: "a:1", Origin: "f"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Control.Token != canary {
		t.Fatal("token did not arrive")
	}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprint(c.Values())} {
		if strings.Contains(s, canary) {
			t.Errorf("secret shown: %s", s)
		}
	}
}

func TestEveryKeyHasItsOwnVariableAndTakesItsDefault(t *testing.T) {
	t.Parallel()
	envs := map[string]string{}
	for _, k := range bind(Default()) {
		if other, twice := envs[k.env()]; twice {
			t.Errorf("%s and %s share %s", k.name, other, k.env())
		}
		envs[k.env()] = k.name
		if k.doc == "" || !strings.HasSuffix(k.doc, ".") {
			t.Errorf("%s: doc %q is no sentence", k.name, k.doc)
		}
		if err := k.set([]string{k.byDefault}); err != nil && k.byDefault != "" {
			t.Errorf("%s refuses its own default %q: %v", k.name, k.byDefault, err)
		}
		if k.get() != k.byDefault {
			t.Errorf("%s: default %q became %q", k.name, k.byDefault, k.get())
		}
	}
}

func TestChangedTellsLiveFromRestart(t *testing.T) {
	t.Parallel()
	old, now := Default(), Default()
	now.Log.Level, now.GRPC, now.DrainTimeout = "debug", "127.0.0.1:1", time.Minute
	live, restart := Changed(old, now)
	if d := cmp.Diff([]string{"log.level"}, live); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"grpc", "drain_timeout"}, restart); d != "" {
		t.Error(d)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0": 0, "512": 512, "4MiB": 4 << 20, "1 KiB": 1024, "10GiB": 10 << 30} {
		if n, err := ParseSize(s); err != nil || n != want {
			t.Errorf("ParseSize(%q) = %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "4MB", "9999999999TiB", "1.5GiB"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	}
}

func TestReferencePageIsCurrent(t *testing.T) {
	t.Parallel()
	const path = "../../docs/reference/config.md"
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Markdown() {
		t.Errorf("%s is out of date; run: go test ./internal/config -update", path)
	}
}

func FuzzFile(f *testing.F) {
	f.Add("grpc: 127.0.0.1:1\n")
	f.Add("log: {level: debug, format: [a]}\nroles: [a, {b: c}]\n")
	f.Add("a: &a\n  b: *a\n")
	f.Add("? [a]\n: b\n<<: {a: b}\n")
	f.Add("- - - -")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		l := &loader{keys: bind(c), byName: map[string]*key{}}
		for _, k := range l.keys {
			l.byName[k.name] = k
		}
		l.parse("f", []byte(text))
		for _, fault := range l.faults {
			if fault.Text == "" || fault.Origin == "" {
				t.Errorf("fault without text or place: %+v", fault)
			}
		}
	})
}
