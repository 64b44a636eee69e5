package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/sluice-mq/sluice/internal/telemetry"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			b := telemetry.ReadBuild()
			return a.print(object{{"version", b.Version}, {"commit", b.Commit}, {"go", b.Go}}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "sluice %s (%s, %s)\n", b.Version, b.Commit, b.Go)
				return err
			})
		},
	}
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages into a folder", Args: args(1, 1, "DIR"),
		RunE: func(c *cobra.Command, dirs []string) error {
			if err := os.MkdirAll(dirs[0], 0o755); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true // pages are compared by packagers
			if err := doc.GenManTree(root, &doc.GenManHeader{Title: "SLUICE", Section: "1", Source: "Sluice"}, dirs[0]); err != nil {
				return fmt.Errorf("manual pages in %s: %w", dirs[0], err)
			}
			a.note("wrote manual pages to %s", dirs[0])
			return nil
		},
	}
}
