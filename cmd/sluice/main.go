// Command sluice is the whole product in one binary: server, client tools and administration.
package main

import (
	"os"

	"github.com/sluice-mq/sluice/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], os.Environ(), cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
