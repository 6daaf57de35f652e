"""What facke-diffusion contributes: nothing in this release. Its methods follow in a later one; the
entry point exists so that installing the package changes nothing but what it adds."""
