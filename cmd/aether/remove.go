package main

import (
	"errors"
	"strings"
)

// removeEach removes the named things one by one, and prints which are gone. One that cannot be removed holds up no
// other; remedy is for when some are gone and some are not.
func (a *app) removeEach(names []string, asJSON bool, remedy string, remove func(name string) error) error {
	removed := []string{}
	var errs []error
	for _, name := range names {
		if err := remove(name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, name)
	}
	var err error
	if asJSON {
		err = a.printJSON(map[string][]string{"removed": removed})
	} else if len(removed) > 0 {
		err = a.printf("%s\n", strings.Join(removed, "\n"))
	}
	switch {
	case err != nil:
		return err
	case len(errs) > 0 && len(removed) > 0:
		return &failure{code: exitPartly, kind: "partly", err: errors.Join(errs...), remedy: remedy}
	case len(errs) > 0:
		return errs[0]
	}
	return nil
}
