package cli

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// danger holds the flags of a command that destroys something.
type danger struct{ yes, dryRun bool }

func (d *danger) flags(c *cobra.Command) {
	c.Flags().BoolVar(&d.yes, "yes", false, "do it without asking")
	c.Flags().BoolVar(&d.dryRun, "dry-run", false, "say what would happen, change nothing")
}

// confirm asks for the name of what is about to be destroyed. Without a terminal it needs --yes.
func (a *app) confirm(d danger, what, name, consequence string) error {
	if d.yes || d.dryRun {
		return nil
	}
	if !terminal(a.In) {
		return usage("%s %s: %s; say --yes to do it without a terminal, or --dry-run", what, name, consequence)
	}
	fmt.Fprintf(a.Err, "%s %s: %s.\nType the name to go on: ", what, name, consequence)
	line, _ := bufio.NewReader(a.In).ReadString('\n') // an end without an answer is a no
	if strings.TrimSpace(line) != name {
		return fmt.Errorf("%s %s: the name was not typed; nothing was changed", what, name)
	}
	return nil
}

// done tells what a write did, or would do.
func (a *app) done(dryRun bool, format string, args ...any) {
	if dryRun {
		a.note("dry run, nothing changed: would have "+format, args...)
		return
	}
	a.note(format, args...)
}
