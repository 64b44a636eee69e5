package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/internal/config"
)

func (a *app) configCommand() *cobra.Command {
	return a.noun("config", "Configuration of a node", a.configCheck(), a.configShow(), a.configReference())
}

func (a *app) configCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Check a configuration file: every fault, with its line", Args: args(1, 1, "FILE"),
		RunE: func(_ *cobra.Command, files []string) error {
			if _, err := config.Load(config.Source{File: files[0]}); err != nil {
				return err
			}
			return a.print(object{{"file", files[0]}, {"ok", true}}, func(io.Writer) error {
				a.note("%s is fine", files[0])
				return nil
			})
		},
	}
}

func (a *app) configShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show [server flags]", Short: "Show the effective configuration and where each value came from; secrets are hidden", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(c.Flags())
			if err != nil {
				return err
			}
			l := listing{head: []string{"KEY", "VALUE", "FROM"}}
			for _, v := range cfg.Values() {
				l.add(object{{"key", v.Key}, {"value", v.Value}, {"origin", v.Origin}, {"default", v.Default}}, v.Key, v.Value, v.Origin)
			}
			return a.list(l)
		},
	}
	a.serverFlags(c)
	return c
}

func (a *app) configReference() *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Describe every key", Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			var objects []object
			for _, e := range config.Reference() {
				objects = append(objects, object{
					{"key", e.Key},
					{"kind", e.Kind},
					{"allowed", e.Allowed},
					{"default", e.Default},
					{"env", e.Env},
					{"reload", e.Reload},
					{"doc", e.Doc},
				})
			}
			return a.print(objects, func(w io.Writer) error {
				_, err := io.WriteString(w, config.Markdown())
				return err
			})
		},
	}
}
