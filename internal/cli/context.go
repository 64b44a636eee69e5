package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// namedServer is one entry of the contexts file.
type namedServer struct {
	Server string `yaml:"server"`
	Token  string `yaml:"token,omitempty"`
	CA     string `yaml:"ca,omitempty"`   // PEM file, or "system"
	Cert   string `yaml:"cert,omitempty"` // PEM file
	Key    string `yaml:"key,omitempty"`  // PEM file
}

// contexts is the file in the user's configuration folder.
type contexts struct {
	Current  string                 `yaml:"current,omitempty"`
	Contexts map[string]namedServer `yaml:"contexts"`
}

// contextsPath is $XDG_CONFIG_HOME/sluice/contexts.yaml, or what the system has instead.
func (a *app) contextsPath() (string, error) {
	dir := a.env["XDG_CONFIG_HOME"]
	if dir == "" {
		var err error
		if dir, err = os.UserConfigDir(); err != nil {
			return "", fmt.Errorf("contexts file: %w", err)
		}
	}
	return filepath.Join(dir, "sluice", "contexts.yaml"), nil
}

func (a *app) readContexts() (contexts, error) {
	cs := contexts{Contexts: map[string]namedServer{}}
	path, err := a.contextsPath()
	if err != nil {
		return cs, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cs, nil
	}
	if err != nil {
		return cs, fmt.Errorf("contexts file: %w", err)
	}
	if err := yaml.Load(data, &cs, yaml.WithKnownFields()); err != nil {
		return cs, fmt.Errorf("contexts file %s: %w; repair or delete it", path, err)
	}
	if cs.Contexts == nil {
		cs.Contexts = map[string]namedServer{}
	}
	return cs, nil
}

// writeContexts replaces the file at once, readable by the user alone: it holds tokens.
func (a *app) writeContexts(cs contexts) error {
	path, err := a.contextsPath()
	if err != nil {
		return err
	}
	data, err := yaml.Dump(cs)
	if err != nil {
		return fmt.Errorf("contexts file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("contexts file: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("contexts file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("contexts file: %w", err)
	}
	return nil
}

// namedContext is what --context, SLUICE_CONTEXT or the current context says; empty where nothing does.
func (a *app) namedContext() (namedServer, error) {
	asked := cmp.Or(a.context, a.env["SLUICE_CONTEXT"])
	cs, err := a.readContexts()
	if err != nil {
		if asked == "" && a.server != "" {
			return namedServer{}, nil // the file does not matter to who names a server
		}
		return namedServer{}, err
	}
	name := cmp.Or(asked, cs.Current)
	if name == "" {
		return namedServer{}, nil
	}
	c, ok := cs.Contexts[name]
	if !ok {
		return c, fmt.Errorf("context %s: does not exist; `sluice context list` shows what there is", name)
	}
	return c, nil
}

func (a *app) contextCommand() *cobra.Command {
	var s namedServer
	set := &cobra.Command{
		Use: "set NAME", Short: "Keep a server and a token under a name, and use them from now on", Args: args(1, 1, "NAME"),
		RunE: func(_ *cobra.Command, names []string) error {
			s.Server, s.Token = cmp.Or(a.server, defaultServer), a.token
			s.CA, s.Cert, s.Key = a.serverCA, a.clientCert, a.clientKey
			return a.changeContexts(func(cs *contexts) error {
				cs.Contexts[names[0]], cs.Current = s, names[0]
				return nil
			})
		},
	}
	use := &cobra.Command{
		Use: "use NAME", Short: "Use a context from now on", Args: args(1, 1, "NAME"),
		RunE: func(_ *cobra.Command, names []string) error {
			return a.changeContexts(func(cs *contexts) error {
				if _, ok := cs.Contexts[names[0]]; !ok {
					return fmt.Errorf("context %s: does not exist; `sluice context set` makes it", names[0])
				}
				cs.Current = names[0]
				return nil
			})
		},
	}
	remove := &cobra.Command{
		Use: "delete NAME", Short: "Forget a context", Args: args(1, 1, "NAME"),
		RunE: func(_ *cobra.Command, names []string) error {
			return a.changeContexts(func(cs *contexts) error {
				if _, ok := cs.Contexts[names[0]]; !ok {
					return fmt.Errorf("context %s: does not exist", names[0])
				}
				delete(cs.Contexts, names[0])
				if cs.Current == names[0] {
					cs.Current = ""
				}
				return nil
			})
		},
	}
	return a.noun("context", "Servers by name", a.contextList(), set, use, remove)
}

func (a *app) changeContexts(change func(*contexts) error) error {
	cs, err := a.readContexts()
	if err != nil {
		return err
	}
	if err := change(&cs); err != nil {
		return err
	}
	return a.writeContexts(cs)
}

func (a *app) contextList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the contexts; tokens are not shown", Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			cs, err := a.readContexts()
			if err != nil {
				return err
			}
			l := listing{head: []string{"NAME", "SERVER", "TOKEN", "CURRENT"}}
			for _, name := range slices.Sorted(maps.Keys(cs.Contexts)) {
				c := cs.Contexts[name]
				l.add(object{
					{"name", name}, {"server", c.Server}, {"has_token", c.Token != ""}, {"current", name == cs.Current},
				}, name, c.Server, mark(c.Token != ""), mark(name == cs.Current))
			}
			return a.list(l)
		},
	}
}

func mark(yes bool) string {
	if yes {
		return "yes"
	}
	return ""
}
