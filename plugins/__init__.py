"""The built-in plugins of rph. They are found through entry points, like any third party's."""
